"""What tests share: template databases, in-process servers, tokens, fault proxy, fake peers."""
