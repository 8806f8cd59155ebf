-- When a worker left in good order, last.
ALTER TABLE worker ADD COLUMN left_ms INTEGER;
