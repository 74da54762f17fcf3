-- What the demo's load reads and writes.
CREATE TABLE load (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
INSERT INTO load (id) SELECT generate_series(0, 7);
