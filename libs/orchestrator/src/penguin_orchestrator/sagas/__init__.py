"""Acts that cross tiers, carried out from a journal: whoever began one, anybody can finish it, or undo it."""
