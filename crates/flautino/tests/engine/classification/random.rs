//! Random statements, in pairs: a read, and the same with a write in one of its corners.

use fastrand::Rng;

/// Whole statements around an expression.
const STATEMENTS: &[&str] = &[
    "SELECT @",
    "SELECT @ AS a, 2 AS b",
    "SELECT id FROM notes WHERE id = @",
    "SELECT id FROM notes WHERE id IN (1, @)",
    "SELECT id FROM notes WHERE NOT id BETWEEN 0 AND @",
    "SELECT id FROM notes ORDER BY id, @ + 0",
    "SELECT id FROM notes LIMIT @",
    "SELECT id FROM notes ORDER BY id LIMIT 1 OFFSET @",
    "SELECT count(*) FILTER (WHERE id > @) FROM notes",
    "SELECT count(*) FROM notes GROUP BY id, @ + 0",
    "SELECT count(*) FROM notes GROUP BY ROLLUP (id, abs(@))",
    "SELECT max(id) FROM notes HAVING count(*) > @",
    "SELECT DISTINCT ON (id, @ + 0) id FROM notes",
    "SELECT a.id FROM notes a JOIN notes b ON a.id = b.id + @",
    "SELECT a.id FROM notes a LEFT JOIN notes b ON a.id = @ WHERE b.id IS NULL",
    "SELECT sum(id) OVER (PARTITION BY id ORDER BY @ + 0) FROM notes",
    "SELECT sum(id) OVER w FROM notes WINDOW w AS (ORDER BY id, @ + 0)",
    "SELECT array_agg(id ORDER BY id, @ + 0) FROM notes",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id + @) FROM notes",
    "SELECT * FROM generate_series(1, 2 + 0 * @) AS g",
    "SELECT * FROM notes, LATERAL (SELECT @ AS x) AS l",
    "SELECT * FROM (SELECT @ AS x) AS s",
    "SELECT * FROM (VALUES (1, @), (2, 3)) AS v (a, b)",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM notes WHERE id = @)",
    "SELECT 1 = ANY (SELECT @)",
    "SELECT ARRAY(SELECT @)",
    "VALUES (1), (@)",
    "VALUES (1) ORDER BY @ + 0 LIMIT 1",
    "SELECT 1 UNION ALL SELECT @",
    "(SELECT 1) UNION (SELECT @)",
    "((SELECT @))",
    "SELECT 1 EXCEPT (SELECT @ LIMIT 1)",
    "WITH a AS (SELECT @ AS x) SELECT x FROM a",
    "WITH a AS MATERIALIZED (SELECT 1), b AS (SELECT @) SELECT * FROM a, b",
    "WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 2 + 0 * @) SELECT n FROM t",
];

/// Statements that can take a data-modifying `WITH` or `INTO` before, or a clause after.
const SIMPLE: &[&str] = &[
    "SELECT id FROM notes",
    "SELECT id, title FROM notes WHERE id = @",
    "SELECT n.id FROM notes n WHERE n.id < @ ORDER BY n.id",
    "SELECT id FROM notes ORDER BY id LIMIT @",
];

/// Expressions around an expression.
const EXPRESSIONS: &[&str] = &[
    "(@)",
    "1 + @",
    "calm(@)",
    "coalesce(@, 1)",
    "greatest(1, @)",
    "app.calm_too(b => @, a => 1)",
    "CASE WHEN @ IS NULL THEN 1 ELSE 2 END",
    "CASE WHEN true THEN @ END",
    "CASE @ WHEN 1 THEN 2 ELSE 3 END",
    "(@)::int",
    "CAST(@ AS int)",
    "(SELECT @)",
    "(SELECT max(x) FROM (VALUES (1), (@)) AS v (x))",
    "(WITH w AS (SELECT @ AS x) SELECT x FROM w)",
    "(ARRAY[1, @])[2]",
    "(ARRAY[5, 6])[1 + 0 * @]",
    "(SELECT count(*) FROM notes WHERE id = @)::int",
];

/// What hides an expression from a reader who does not know where quotes and comments end.
const DISGUISES: &[&str] = &[
    "length('/*') + @ + length('*/')",
    "length('''') + @ + length('--')",
    "length(E'\\'') + @ + length(E'\\'')",
    "length('\\') + @ + length('\\')",
    "length($a$ -- $b$ $a$) + @ + length($b$ $a$ $b$)",
    "length($$'$$) + @ + length($$'$$)",
    "(SELECT a$$b FROM (SELECT @ AS a$$b) AS c$$d)",
    "(SELECT \"/*\" FROM (SELECT @ AS \"/*\") AS \"*/\")",
    "(SELECT \"a\"\"'\" FROM (SELECT @ AS \"a\"\"'\") AS \"'\")",
    "/* ' */ @ /* ' */",
    "/* /* */ \" */ @ /* \" */",
    "-- /*\n@ -- */\n",
    "-- '\r@ -- '\n",
    "/* -- */ @",
];

/// Numbers that only read: a function's name, and its arguments; or the whole.
const READING: &[&str] =
    &["calm@(1)", "length@('x')", "abs@(-2)", "steady@()::int", "random@()::int"];
const READING_WHOLE: &[&str] = &["2", "(SELECT max(id) FROM notes)", "(1 &&& 2)::int"];

/// Numbers that write.
const WRITING: &[&str] = &[
    "grab@(1)",
    "touch@()",
    "touch_sql@(1)",
    "nextval@('numbers')::int",
    "setval@('numbers', 1)::int",
    "pg_try_advisory_xact_lock@(7)::int",
    "length(set_config@('app.user', 'x', true))",
    "length(pg_notify@('news', 'x')::text)",
    "length(pg_export_snapshot@())",
    "txid_current@()::int",
    "pg_is_in_recovery@()::int",
    "length(twice@('x'::text))",
    "pg_sleepwalk@()",
];
const WRITING_WHOLE: &[&str] = &[
    "app.grab_it()",
    "\"CALM\"(1)",
    "\"Touch\" ()",
    "(SELECT n FROM grabbing_view LIMIT 1)",
    "(SELECT max(n) FROM \"Grabbing View\")",
    "(SELECT count(*) FROM locking_view)::int",
    "(SELECT count(*) FROM guarded)::int",
    "(SELECT one FROM view_of_view_of_view LIMIT 1)",
    "(SELECT note.grab_column FROM notes note LIMIT 1)",
    "(SELECT (note).touch_column FROM notes AS note LIMIT 1)",
    "(1 |=| 2)::int",
    "(1 <=> 2)::int",
    "(SELECT count(*) FROM pg_locks)::int",
    "(SELECT count(*) FROM pg_stat_activity)::int",
    "(SELECT id FROM notes ORDER BY id LIMIT 1 FOR UPDATE)",
    "(SELECT id FROM notes LIMIT 1 FOR SHARE)",
    "(SELECT id FROM notes LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)",
];

const LOCKS: &[&str] = &[
    "FOR UPDATE",
    "FOR SHARE",
    "FOR NO KEY UPDATE",
    "FOR KEY SHARE",
    "FOR UPDATE SKIP LOCKED",
    "FOR SHARE NOWAIT",
];
const EXPLAINS: &[&str] = &[
    "EXPLAIN ANALYZE",
    "EXPLAIN ANALYZE VERBOSE",
    "EXPLAIN (ANALYZE)",
    "EXPLAIN (COSTS OFF, ANALYZE ON)",
    "EXPLAIN (ANALYZE OFF, FORMAT JSON, ANALYZE TRUE)",
];
const COMMANDS: &[&str] = &[
    "INSERT INTO touched DEFAULT VALUES",
    "INSERT INTO notes (title) VALUES ('random')",
    "UPDATE notes SET body = 'select' WHERE id = 3",
    "DELETE FROM notes WHERE id = -1",
];
const GAPS: &[&str] = &["", " ", "\n", "\t", " /* ( */ ", "/**/", " -- (\n", "/* /* ( */ */"];
const SPACES: &[&str] = &[" ", " ", " ", "  ", "\n", "\t", "\r\n", " /* x */ ", "/**/", " -- y\n"];
const BEFORE: &[&str] = &[
    "",
    "",
    " ",
    "\n",
    "/* SELECT */ ",
    "/*NO LOAD BALANCE*/ ",
    "-- read only\n",
    "/* a /* b */ */",
];
const AFTER: &[&str] = &["", "", ";", " ; ", " -- SELECT", " /* ; */", ";\n-- the end"];

/// A source of random statements, the same for the same seed.
pub(super) struct Statements(Rng);

impl Statements {
    pub(super) fn of(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// A read, and a write that differs from it in one place; `number` is in what it creates.
    pub(super) fn pair(&mut self, number: usize) -> (String, String) {
        let (read, write) = match self.0.u8(..10) {
            way @ 0..5 => {
                let simple = self.one_of(SIMPLE);
                let read = self.spaced(simple).replace('@', &self.reading());
                let write = self.written(way, &read, number);
                (read, write)
            }
            _ => {
                let around = self.surroundings();
                (around.replace('@', &self.reading()), around.replace('@', &self.writing()))
            }
        };
        let (before, after) = (self.one_of(BEFORE), self.one_of(AFTER));
        (format!("{before}{read}{after}"), format!("{before}{write}{after}"))
    }

    /// What one of five ways makes of a simple read.
    fn written(&mut self, way: u8, read: &str, number: usize) -> String {
        let command = self.one_of(COMMANDS);
        match way {
            0 => {
                let lock = self.one_of(LOCKS);
                format!("{read} {}", self.spaced(lock))
            }
            1 => {
                let with = self.spaced("WITH w AS (@)");
                format!("{} {read}", with.replace('@', &format!("{command} RETURNING 1")))
            }
            2 => {
                let into = self.spaced(" INTO TABLE made_at_random_@ ");
                let (select, from) = read.split_at(read.to_ascii_lowercase().find("from").unwrap());
                format!("{select}{}{from}", into.replace('@', &number.to_string()))
            }
            3 => format!("{read} ;{}{command}", self.one_of(SPACES)),
            _ => {
                let explain = self.one_of(EXPLAINS);
                format!("{} {read}", self.spaced(explain))
            }
        }
    }

    fn one_of(&mut self, texts: &[&'static str]) -> &'static str {
        texts[self.0.usize(..texts.len())]
    }

    /// A statement with a hole, a few expressions deep.
    fn surroundings(&mut self) -> String {
        let statement = self.one_of(STATEMENTS);
        let mut around = self.spaced(statement);
        for _ in 0..self.0.usize(..4) {
            let expression = if self.0.bool() {
                let expression = self.one_of(EXPRESSIONS);
                self.spaced(expression)
            } else {
                format!("({})", self.one_of(DISGUISES))
            };
            around = around.replace('@', &expression);
        }
        around
    }

    fn reading(&mut self) -> String {
        self.leaf(READING, READING_WHOLE)
    }

    fn writing(&mut self) -> String {
        self.leaf(WRITING, WRITING_WHOLE)
    }

    fn leaf(&mut self, calls: &[&'static str], whole: &[&'static str]) -> String {
        if self.0.bool() {
            return self.one_of(whole).to_owned();
        }
        let (head, arguments) = self.one_of(calls).split_once('@').unwrap();
        // The call may stand inside another.
        let (outer, name) = head.split_at(head.find('(').map_or(0, |at| at + 1));
        let name = match self.0.u8(..4) {
            0 => format!("\"{name}\""),
            1 => name.to_ascii_uppercase(),
            2 => self.cased(name),
            _ => name.to_owned(),
        };
        format!("{outer}{name}{}{arguments}", self.one_of(GAPS))
    }

    /// With other white space and other letter case; for text without quotes.
    fn spaced(&mut self, text: &str) -> String {
        let text = if self.0.bool() { self.cased(text) } else { text.to_owned() };
        let mut out = String::new();
        for piece in text.split_inclusive(' ') {
            match piece.strip_suffix(' ') {
                Some(word) if self.0.bool() => out.extend([word, self.one_of(SPACES)]),
                _ => out.push_str(piece),
            }
        }
        out
    }

    fn cased(&mut self, text: &str) -> String {
        let chars = text.chars();
        chars.map(|it| if self.0.bool() { it.to_ascii_uppercase() } else { it }).collect()
    }
}
