-- How many owners of a saga ended without a word since it last came on: what ends its owners must not be taken over for ever.
ALTER TABLE sagas ADD COLUMN takeovers integer NOT NULL DEFAULT 0;

-- Who took a tier's part of an erasure for done: the tier itself has not said so.
ALTER TABLE erasure_receipts ADD COLUMN skipped_by text NOT NULL DEFAULT '';
