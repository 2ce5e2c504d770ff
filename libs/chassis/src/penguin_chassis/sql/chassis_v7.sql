-- What an action of a saga was refused for, where its caller takes that for final; it is barred (compensated) as well, so that
-- who does not know of this column refuses it, too. Of rows that stand none has one: none is looked at.
ALTER TABLE step_barrier ADD COLUMN refused bytea;
ALTER TABLE step_barrier ADD CONSTRAINT step_barrier_refused CHECK (refused IS NULL OR (compensated AND operation = 'action'))
    NOT VALID;
