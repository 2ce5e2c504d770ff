-- A saga may also be given up: its tenant was closed, and nobody can mend that.
ALTER TABLE sagas DROP CONSTRAINT sagas_state_check;
ALTER TABLE sagas ADD CONSTRAINT sagas_state_check
    CHECK (state IN ('running', 'compensating', 'succeeded', 'compensated', 'stuck', 'abandoned'));
