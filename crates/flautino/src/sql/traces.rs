//! What functions, triggers and views of the user's own leave in a session, as the server's catalogue
//! shows it: [`Objects`] is what the catalogue says, and [`Traces`] what follows for a statement.
//!
//! Objects are known by their names without a schema, and functions by the texts of their bodies. What
//! cannot be read, such as `EXECUTE` in PL/pgSQL, counts as leaving something.

use std::collections::{BTreeSet, HashMap};

use super::effects::{Effects, of_function};
use super::scan::{Found, Names, TextKind, scan};

/// An object of the catalogue: `f`, `r` or `t` for a function, a relation or a type, and its OID.
type Mark = Box<str>;

/// What statements leave in their session beyond what their texts show.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Traces {
    functions: HashMap<Box<str>, Effects>,
    relations: HashMap<Box<str>, OfObject>,
    /// What event triggers do.
    definitions: Effects,
    /// What operators and casts do, which no text shows.
    anywhere: Effects,
    /// The catalogue was read, and has not changed since. Otherwise every statement is in doubt.
    is_current: bool,
}

/// What the use of an object does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct OfObject {
    /// To read a relation, or to call a function.
    read: Effects,
    /// To write to a relation.
    write: Effects,
}

impl Traces {
    /// What the statement does to its session.
    pub(super) fn effects(&self, sql: &str) -> Effects {
        let mut uses = Uses { traces: self, found: OfObject::default() };
        let found = scan(sql, TextKind::Statement, &mut uses);
        let mut effects = found.effects | uses.found.read | self.anywhere;
        if found.writes {
            effects |= uses.found.write;
        }
        if found.defines {
            effects |= self.definitions;
        }
        if !self.is_current {
            effects |= Effects::DOUBT;
        }
        effects
    }

    /// The name of what makes the statement hold something for as long as the session lasts, if it does.
    pub(super) fn holds(&self, sql: &str) -> Option<String> {
        if !holds(self.effects(sql)) {
            return None;
        }
        let mut holder = Holder { traces: self, name: None };
        scan(sql, TextKind::Statement, &mut holder);
        Some(holder.name.unwrap_or_else(|| "LISTEN".to_owned()))
    }

    pub(super) fn is_current(&self) -> bool {
        self.is_current
    }

    /// The same, after the catalogue has changed.
    pub(super) fn outdated(&self) -> Self {
        let (functions, relations) = (self.functions.clone(), self.relations.clone());
        Self { functions, relations, is_current: false, ..*self }
    }
}

/// Whether a statement with these effects answers that something is held which the session's reset takes
/// away. A function that gives back what it takes holds nothing.
pub(super) fn holds(effects: Effects) -> bool {
    effects.any(Effects::HOLDS)
        || (effects.any(Effects::TAKES) && !effects.any(Effects::GIVES_BACK))
}

/// Collects what the names in a statement stand for.
struct Uses<'a> {
    traces: &'a Traces,
    found: OfObject,
}

impl Names for Uses<'_> {
    fn called(&mut self, name: &str) {
        self.found.read |= self.traces.functions.get(name).copied().unwrap_or_default();
    }

    fn mentioned(&mut self, name: &str) {
        if let Some(relation) = self.traces.relations.get(name) {
            self.found.read |= relation.read;
            self.found.write |= relation.write.without(Effects::TAKES);
        }
    }
}

/// Finds the first name that holds something.
struct Holder<'a> {
    traces: &'a Traces,
    name: Option<String>,
}

impl Holder<'_> {
    fn is(&mut self, name: &str, effects: Effects) {
        if effects.any(Effects::TAKES | Effects::GIVES_BACK) {
            self.name.get_or_insert_with(|| name.to_owned());
        }
    }
}

impl Names for Holder<'_> {
    fn called(&mut self, name: &str) {
        let own = self.traces.functions.get(name).copied().unwrap_or_default();
        self.is(name, of_function(name) | own);
    }

    fn mentioned(&mut self, name: &str) {
        self.is(name, self.traces.relations.get(name).map_or(Effects::NONE, |of| of.read));
    }
}

/// How the use of one object is the use of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Reading reads the other one, and writing writes to it.
    Uses,
    /// Writing writes to it.
    Writes,
    /// Any use reads it.
    Reads,
    /// Any use reads it and writes to it.
    Runs,
}

/// What the catalogue says, row by row.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    objects: HashMap<Mark, OfObject>,
    names: Vec<(Mark, Box<str>)>,
    bodies: Vec<(Mark, String)>,
    links: Vec<(Mark, Link, Mark)>,
    event_triggers: Vec<Mark>,
    anywhere: Vec<Mark>,
    /// Functions that leave nothing, because the configuration says so.
    trusted: BTreeSet<Mark>,
}

/// Functions and languages that leave nothing in a session, because the configuration says so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trusted {
    pub(crate) functions: Vec<String>,
    pub(crate) languages: Vec<String>,
}

impl Objects {
    /// Adds a row of the catalogue: its kind, and what the kind has.
    pub(crate) fn add(&mut self, row: [&str; 5], trusted: &Trusted) {
        let [kind, mark, name, text, language] = row;
        match kind {
            "function" => {
                let is_in = |names: &[String], name| names.iter().any(|trusted| trusted == name);
                if is_in(&trusted.functions, name) || is_in(&trusted.languages, language) {
                    self.trusted.insert(mark.into());
                    return;
                }
                self.names.push((mark.into(), name.into()));
                match language {
                    "sql" | "plpgsql" => self.bodies.push((mark.into(), text.to_owned())),
                    // Aggregates.
                    "internal" | "c" => {}
                    _ => self.does(mark, of_other_language(text)),
                }
            }
            // Its name is known anyhow, but stored expressions refer to it by its OID.
            "known" => self.does(mark, of_function(name)),
            "object" => self.names.push((mark.into(), name.into())),
            "event" => self.event_triggers.push(mark.into()),
            "anywhere" => self.anywhere.push(mark.into()),
            "uses" => self.links.push((mark.into(), Link::Uses, name.into())),
            "writes" => self.links.push((mark.into(), Link::Writes, name.into())),
            _ => self.links.push((mark.into(), Link::Runs, name.into())),
        }
    }

    fn does(&mut self, mark: &str, effects: Effects) {
        self.objects.insert(mark.into(), OfObject { read: effects, write: effects });
    }

    /// What follows for statements.
    pub(crate) fn traces(mut self) -> Traces {
        self.read_bodies();
        let trusted = &self.trusted;
        self.links.retain(|(from, ..)| !trusted.contains(from));
        while self.follow_links() {}
        let mut traces = Traces { is_current: true, ..Traces::default() };
        for (mark, name) in &self.names {
            let of = self.of(mark);
            if of == OfObject::default() {
                continue;
            }
            if is_function(mark) {
                *traces.functions.entry(name.clone()).or_default() |= of.read;
            } else {
                let relation = traces.relations.entry(name.clone()).or_default();
                relation.read |= of.read;
                relation.write |= of.write;
            }
        }
        for mark in &self.event_triggers {
            traces.definitions |= self.of(mark).read;
        }
        for mark in &self.anywhere {
            traces.anywhere |= self.of(mark).read;
        }
        traces
    }

    fn of(&self, mark: &str) -> OfObject {
        self.objects.get(mark).copied().unwrap_or_default()
    }

    /// Finds what each body does, and links its function to all that it names.
    fn read_bodies(&mut self) {
        let mut index = Index::default();
        for (mark, name) in &self.names {
            let names = if is_function(mark) { &mut index.functions } else { &mut index.relations };
            names.entry(name).or_default().push(mark);
        }
        for (mark, body) in &self.bodies {
            let mut named = Named { index: &index, functions: Vec::new(), relations: Vec::new() };
            let Found { effects, writes, defines } = scan(body, TextKind::Body, &mut named);
            let object = self.objects.entry(mark.clone()).or_default();
            object.read |= effects;
            object.write |= effects;
            let functions = named.functions.into_iter().map(|to| (Link::Runs, to));
            let how = if writes { Link::Runs } else { Link::Reads };
            let relations = named.relations.into_iter().map(|to| (how, to));
            let links = functions.chain(relations).map(|(how, to)| (mark.clone(), how, to.into()));
            self.links.extend(links);
            if defines {
                let runs =
                    self.event_triggers.iter().map(|to| (mark.clone(), Link::Runs, to.clone()));
                self.links.extend(runs);
            }
        }
    }

    /// Adds to each object what it uses does. Returns whether anything was new.
    fn follow_links(&mut self) -> bool {
        let mut has_changed = false;
        for (from, how, to) in &self.links {
            let to = self.objects.get(to).copied().unwrap_or_default();
            if to == OfObject::default() {
                continue;
            }
            // What a trigger takes is not what the statement asks for.
            let written = to.write.without(Effects::TAKES);
            let (read, write) = match how {
                Link::Uses => (to.read, written | to.read),
                Link::Writes => (Effects::NONE, written),
                Link::Reads => (to.read, to.read),
                Link::Runs => (to.read | written, to.read | written),
            };
            let object = self.objects.entry(from.clone()).or_default();
            let before = *object;
            object.read |= read;
            object.write |= write;
            has_changed |= *object != before;
        }
        has_changed
    }
}

fn is_function(mark: &str) -> bool {
    mark.starts_with('f')
}

/// What a function in a language does that is not read here. Some keep variables for as long as the
/// session lasts.
fn of_other_language(body: &str) -> Effects {
    let words = body.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut names = words.filter(|word| matches!(*word, "_SHARED" | "GD" | "SD" | "global"));
    if names.next().is_some() { Effects::DOUBT | Effects::SPOILS } else { Effects::DOUBT }
}

/// Marks by name.
#[derive(Default)]
struct Index<'a> {
    functions: HashMap<&'a str, Vec<&'a str>>,
    relations: HashMap<&'a str, Vec<&'a str>>,
}

/// Collects the marks of what a body names.
struct Named<'a> {
    index: &'a Index<'a>,
    functions: Vec<&'a str>,
    relations: Vec<&'a str>,
}

impl Names for Named<'_> {
    fn called(&mut self, name: &str) {
        self.functions.extend(self.index.functions.get(name).into_iter().flatten());
    }

    fn mentioned(&mut self, name: &str) {
        self.relations.extend(self.index.relations.get(name).into_iter().flatten());
    }
}

#[cfg(test)]
mod tests;
