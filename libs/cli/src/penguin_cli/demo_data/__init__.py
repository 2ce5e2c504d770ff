"""The demo's own data: 1,000 invented people at `.example` domains, a template, an attachment. None of it is anybody's."""
