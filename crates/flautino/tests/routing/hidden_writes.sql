-- Every way in which PostgreSQL keeps a call of `grab` where no text shows it. `grab` takes an advisory
-- lock, which a standby grants, and which then protects only that server.

CREATE SCHEMA app;
CREATE FUNCTION grab(int) RETURNS int LANGUAGE plpgsql VOLATILE
    AS 'BEGIN PERFORM pg_advisory_xact_lock(77, $1); RETURN $1; END';
CREATE FUNCTION calm(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE TABLE notes (id int, title text, grab text, grabs text, n numeric);
INSERT INTO notes VALUES (1, 'a', 'b', 'c', 1), (2, 'b', 'c', 'd', 2);

-- Stored expressions

CREATE FUNCTION grab_both(int, int) RETURNS bool LANGUAGE sql VOLATILE
    AS 'SELECT grab($1) = grab($2)';
CREATE OPERATOR |=| (LEFTARG = int, RIGHTARG = int, FUNCTION = grab_both);
CREATE FUNCTION grab_add(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1 + grab($2)';
CREATE AGGREGATE grab_sum(int) (SFUNC = grab_add, STYPE = int, INITCOND = '0');
CREATE FUNCTION grab_column(notes) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT grab($1.id)';

CREATE VIEW of_function AS SELECT grab(id) AS g FROM notes;
CREATE VIEW of_operator AS SELECT id |=| 1 AS g FROM notes;
CREATE VIEW of_any AS SELECT 1 |=| ANY (ARRAY[1, 2]) AS g;
CREATE VIEW of_aggregate AS SELECT grab_sum(id) AS g FROM notes;
CREATE VIEW of_window AS SELECT grab_sum(id) OVER (ORDER BY id) AS g FROM notes;
CREATE VIEW of_attribute AS SELECT n.grab_column AS g FROM notes n;
CREATE VIEW of_where AS SELECT id FROM notes WHERE grab(id) > 0;
CREATE VIEW of_order AS SELECT id FROM notes ORDER BY grab(id);
CREATE VIEW of_limit AS SELECT id FROM notes LIMIT grab(1);
CREATE VIEW of_subquery AS SELECT (SELECT max(g) FROM of_function) AS g;
CREATE VIEW of_cte AS WITH a AS MATERIALIZED (SELECT grab(1) AS g) SELECT g FROM a;
CREATE VIEW of_from AS SELECT g FROM grab(1) AS g;
CREATE VIEW of_rows AS SELECT a FROM ROWS FROM (grab(1), generate_series(1, 2)) AS x (a, b);
CREATE VIEW of_join AS SELECT a.id FROM notes a JOIN notes b ON grab(a.id) = b.id;
CREATE VIEW of_case AS SELECT CASE WHEN id > 0 THEN grab(id) END AS g FROM notes;
CREATE VIEW of_lock AS SELECT pg_try_advisory_xact_lock(77, id) AS g FROM notes;
CREATE VIEW app.of_view AS SELECT g FROM of_function;
CREATE VIEW of_view_of_view AS SELECT count(*) AS c FROM app.of_view;
CREATE VIEW of_calm AS SELECT calm(id) AS g, lower(title) AS t, now() AS n, random() AS r,
    sum(n) OVER (ORDER BY id) AS s, (SELECT max(id) FROM notes) AS m FROM notes WHERE id IN (1, 2);
CREATE VIEW of_calm_view AS SELECT * FROM of_calm;

-- What a standby refuses, or answers for itself.
CREATE VIEW of_xid AS SELECT txid_current() AS x;
CREATE VIEW of_xact_id AS SELECT pg_current_xact_id() AS x;
CREATE VIEW of_xml AS SELECT table_to_xml('notes', true, true, '') AS x;
CREATE VIEW of_query_xml AS SELECT query_to_xml('SELECT 1', true, true, '') AS x;
CREATE VIEW of_locks AS SELECT count(*) AS c FROM pg_locks;
CREATE VIEW of_settings AS SELECT setting FROM pg_settings;
CREATE VIEW of_activity AS SELECT count(*) AS c FROM pg_stat_activity;

CREATE FUNCTION body() RETURNS int LANGUAGE sql STABLE RETURN grab(1);
CREATE FUNCTION body_of_body() RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT body(); END;
CREATE FUNCTION body_of_view() RETURNS bigint LANGUAGE sql STABLE
    BEGIN ATOMIC SELECT count(*) FROM of_function; END;
CREATE FUNCTION calm_body() RETURNS int LANGUAGE sql STABLE RETURN calm(1);
CREATE FUNCTION by_default(a int DEFAULT grab(1)) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a';

CREATE TABLE guarded (id int);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY counted ON guarded FOR SELECT USING (grab(id) > 0);
CREATE TABLE guarded_writes (id int);
ALTER TABLE guarded_writes ENABLE ROW LEVEL SECURITY;
CREATE POLICY counted ON guarded_writes FOR INSERT WITH CHECK (grab(id) > 0);
CREATE POLICY seen ON guarded_writes FOR SELECT USING (true);
CREATE TABLE unguarded (id int);
CREATE POLICY counted ON unguarded USING (grab(id) > 0);

-- Types

CREATE DOMAIN grabbed AS int CHECK (grab(VALUE) IS NOT NULL);
CREATE DOMAIN grabbed_twice AS grabbed;
CREATE DOMAIN grabbed_row AS notes CHECK ((VALUE).grab_column > 0);
CREATE TYPE graded AS (a int, g grabbed);
CREATE TYPE regraded AS (b int, g graded);
CREATE TABLE grades (a int, g grabbed);
CREATE TYPE grabrange AS RANGE (SUBTYPE = grabbed);
CREATE DOMAIN grade AS int CHECK (VALUE BETWEEN 1 AND 6);
CREATE TYPE calm_pair AS (a int, g grade);
CREATE FUNCTION takes(grabbed) RETURNS int LANGUAGE plpgsql IMMUTABLE
    AS 'BEGIN RETURN 1; END';
CREATE FUNCTION takes_more(a int, VARIADIC b grabbed[]) RETURNS int LANGUAGE plpgsql IMMUTABLE
    AS 'BEGIN RETURN 1; END';
CREATE FUNCTION gives() RETURNS grabbed LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 1; END';
CREATE FUNCTION gives_out(OUT a int, OUT g grabbed) LANGUAGE plpgsql STABLE AS 'BEGIN a = 1; g = 2; END';
CREATE FUNCTION gives_table() RETURNS TABLE (a int, g grabbed) LANGUAGE plpgsql STABLE
    AS 'BEGIN a = 1; g = 2; RETURN NEXT; END';
CREATE FUNCTION takes_grade(grade) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE VIEW of_domain AS SELECT id::grabbed AS g FROM notes;
CREATE VIEW of_array AS SELECT ARRAY[id]::grabbed[] AS g FROM notes;
CREATE VIEW of_row AS SELECT ROW(1, id)::graded AS g FROM notes;
CREATE VIEW of_record AS SELECT g FROM json_to_record('{"g": 1}') AS x (g grabbed);

-- Casts

CREATE TYPE mark AS (a int);
CREATE FUNCTION to_mark(int) RETURNS mark LANGUAGE sql VOLATILE AS 'SELECT ROW(grab($1))::mark';
CREATE CAST (int AS mark) WITH FUNCTION to_mark(int) AS IMPLICIT;
CREATE FUNCTION takes_mark(mark) RETURNS int LANGUAGE plpgsql IMMUTABLE
    AS 'BEGIN RETURN 1; END';
CREATE TABLE marked (m mark);
INSERT INTO marked VALUES (ROW(1));
CREATE VIEW of_cast AS SELECT takes_mark(id) AS m FROM notes;
CREATE TYPE coin AS (a int);
CREATE FUNCTION to_coin(int) RETURNS coin LANGUAGE sql VOLATILE AS 'SELECT ROW(grab($1))::coin';
CREATE CAST (int AS coin) WITH FUNCTION to_coin(int);
CREATE FUNCTION takes_coin(coin) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE TYPE purse AS (a int, c coin);
CREATE TYPE label AS (a text);
CREATE FUNCTION label_text(label) RETURNS text LANGUAGE plpgsql VOLATILE
    AS 'BEGIN PERFORM grab(1); RETURN ($1).a; END';
CREATE CAST (label AS text) WITH FUNCTION label_text(label) AS IMPLICIT;
CREATE TABLE labelled (l label);
INSERT INTO labelled VALUES (ROW('a'));

-- Operators that the server chooses

CREATE TYPE tag AS (a int);
CREATE FUNCTION tag_eq(tag, tag) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT grab(($1).a) = ($2).a';
CREATE OPERATOR = (LEFTARG = tag, RIGHTARG = tag, FUNCTION = tag_eq);
CREATE FUNCTION tag_at_most(tag, tag) RETURNS bool LANGUAGE sql VOLATILE
    AS 'SELECT grab(($1).a) <= ($2).a';
CREATE OPERATOR <= (LEFTARG = tag, RIGHTARG = tag, FUNCTION = tag_at_most);
CREATE FUNCTION tag_like(tag, text) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT grab(($1).a) > 0';
CREATE OPERATOR ~~ (LEFTARG = tag, RIGHTARG = text, FUNCTION = tag_like);
CREATE TABLE tagged (t tag);
INSERT INTO tagged VALUES (ROW(1)), (ROW(2));

-- An operator class whose operators are harmless and whose function is not.
CREATE TYPE rank AS (a int);
CREATE FUNCTION rank_lt(rank, rank) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a < ($2).a';
CREATE FUNCTION rank_le(rank, rank) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a <= ($2).a';
CREATE FUNCTION rank_eq(rank, rank) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a = ($2).a';
CREATE FUNCTION rank_cmp(rank, rank) RETURNS int LANGUAGE plpgsql VOLATILE
    AS 'BEGIN PERFORM grab(1); RETURN btint4cmp(($1).a, ($2).a); END';
CREATE OPERATOR < (LEFTARG = rank, RIGHTARG = rank, FUNCTION = rank_lt, COMMUTATOR = >);
CREATE OPERATOR <= (LEFTARG = rank, RIGHTARG = rank, FUNCTION = rank_le);
CREATE OPERATOR = (LEFTARG = rank, RIGHTARG = rank, FUNCTION = rank_eq, COMMUTATOR = =, MERGES);
CREATE OPERATOR > (LEFTARG = rank, RIGHTARG = rank, FUNCTION = rank_lt, COMMUTATOR = <);
CREATE OPERATOR >= (LEFTARG = rank, RIGHTARG = rank, FUNCTION = rank_le);
CREATE OPERATOR CLASS rank_ops DEFAULT FOR TYPE rank USING btree AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 rank_cmp(rank, rank);
CREATE TABLE ranked (r rank);
INSERT INTO ranked VALUES (ROW(1)), (ROW(2));
CREATE VIEW of_distinct AS SELECT DISTINCT r FROM ranked;

-- Tables that a standby does not have, and their parents

CREATE TABLE parted (id int) PARTITION BY LIST (id);
CREATE UNLOGGED TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE deep (id int) PARTITION BY LIST (id);
CREATE TABLE deep_1 PARTITION OF deep FOR VALUES IN (1) PARTITION BY LIST (id);
CREATE UNLOGGED TABLE deep_1_1 PARTITION OF deep_1 FOR VALUES IN (1);
CREATE TABLE elder (id int);
CREATE UNLOGGED TABLE heir () INHERITS (elder);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere;
CREATE TABLE spread (id int) PARTITION BY LIST (id);
CREATE FOREIGN TABLE spread_1 PARTITION OF spread FOR VALUES IN (1) SERVER elsewhere;
CREATE TABLE kept (id int) PARTITION BY LIST (id);
CREATE TABLE kept_1 PARTITION OF kept FOR VALUES IN (1);
CREATE VIEW of_unlogged AS SELECT id FROM parted;
