//! Reads the server's catalogue for the classifier.
//!
//! The server says which objects there are and which refer to which; what leads to a function that
//! writes is found here ([`closure`](super::closure)). Stored expressions are large, so those that
//! have not changed since the last reading are not sent again.

mod queries;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use self::queries::{EXPRESSIONS, FACTS, FINGERPRINT, LIMITED, NAMES, SESSION_LIMIT, STORED};
use super::closure::{FIRST_OWN_OID, Graph, Kind, Object, references};
use crate::node::{Sender, Server};
use crate::sql::{
    Builtin, Catalogue, HiddenUse, extension_names, makes_a_named_type, names, relation_names,
};

/// How long the server may take for each message.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// How many stored expressions are asked for in one message. One has some 10 kB.
const MAX_EXPRESSIONS: usize = 1_000;

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(",")
}

/// Where an expression is stored, and its OID there.
type Place = (char, u32);

/// What stored expressions refer to, from one reading to the next.
#[derive(Debug, Default)]
pub(super) struct Expressions(HashMap<Place, Expression>);

#[derive(Debug)]
struct Expression {
    /// The transaction that wrote it.
    version: Box<str>,
    refers_to: Box<[Object]>,
}

/// Connects to the server, to read its catalogue.
pub(super) async fn connect(server: &Server) -> Result<PgConnection, sqlx::Error> {
    let mut connection = server.connect_beside("flautino catalogue").await?;
    if !server.sender.is_pooler {
        let limit = SESSION_LIMIT.replace("{timeout}", &TIMEOUT.as_millis().to_string());
        server.sender.send(&mut connection, limit).await?;
    }
    Ok(connection)
}

/// Returns a text that changes when the catalogue does.
pub(super) async fn fingerprint(
    sender: &Sender,
    connection: &mut PgConnection,
) -> Result<Box<str>, sqlx::Error> {
    let rows = match sender.is_pooler {
        true => send(sender, connection, FINGERPRINT).await?,
        // Most of its time would go into the planning.
        false => sender.send_prepared(connection, FINGERPRINT).await?,
    };
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(row.try_get::<&str, _>(0)?.into())
}

/// Reads the catalogue. `known` is what expressions refer to as of the last reading.
pub(super) async fn read(
    sender: &Sender,
    connection: &mut PgConnection,
    known: &mut Expressions,
) -> Result<Catalogue, sqlx::Error> {
    // PostgreSQL 13 has no SQL bodies.
    let has_bodies = connection.server_version_num().is_none_or(|version| version >= 140_000);
    let stored =
        STORED.replace("{body}", if has_bodies { "prosqlbody" } else { "NULL::pg_node_tree" });
    let facts = FACTS
        .replace("{anywhere}", &list(names(Builtin::AnyNode)))
        .replace("{extensions_primary}", &list(extension_names(Builtin::Primary)))
        .replace("{extensions_anywhere}", &list(extension_names(Builtin::AnyNode)))
        .replace("{relations_anywhere}", &list(relation_names(Builtin::AnyNode)))
        .replace("{stored}", &stored);
    let mut facts = Facts::of(&send(sender, connection, &facts).await?)?;
    let places: HashSet<_> = facts.stored.iter().map(|stored| stored.place).collect();
    known.0.retain(|place, _| places.contains(place));
    let changed: Vec<_> = facts.stored.iter().filter(|stored| !known.has(stored)).collect();
    for changed in changed.chunks(MAX_EXPRESSIONS) {
        known.fetch(sender, connection, &stored, changed).await?;
    }
    for Stored { object, place, .. } in &facts.stored {
        for to in known.0.get(place).map_or(&[][..], |expression| &expression.refers_to) {
            facts.graph.refers(*object, *to);
        }
    }
    let tainted = std::mem::take(&mut facts.graph).close();
    let mut catalogue = facts.into_catalogue(&tainted);
    let names = NAMES
        .replace("{relations}", &oids(&tainted, &[Kind::Relation]))
        .replace("{types}", &oids(&tainted, &[Kind::Type, Kind::CastTarget]));
    for row in send(sender, connection, &names).await? {
        catalogue.anywhere.insert(row.try_get::<&str, _>(0)?.into());
    }
    Ok(catalogue)
}

fn oids(objects: &HashSet<Object>, kinds: &[Kind]) -> String {
    let oids = objects.iter().filter(|object| kinds.contains(&object.kind));
    let oids: Vec<_> = oids.map(|object| object.oid.to_string()).collect();
    format!("{{{}}}", oids.join(","))
}

/// Sends the query in one message, within [`TIMEOUT`].
async fn send(
    sender: &Sender,
    connection: &mut PgConnection,
    query: &str,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let timeout = TIMEOUT.as_millis().to_string();
    let message = LIMITED.replace("{timeout}", &timeout).replace("{query}", query);
    sender.send(connection, message).await
}

impl Expressions {
    /// Whether the expression is known, and has not been written anew since.
    fn has(&self, stored: &Stored) -> bool {
        self.0.get(&stored.place).is_some_and(|known| known.version == stored.version)
    }

    async fn fetch(
        &mut self,
        sender: &Sender,
        connection: &mut PgConnection,
        stored: &str,
        wanted: &[&Stored],
    ) -> Result<(), sqlx::Error> {
        let places =
            wanted.iter().map(|Stored { place: (place, key), .. }| format!("('{place}',{key})"));
        let places = places.collect::<Vec<_>>().join(",");
        let sql = EXPRESSIONS.replace("{stored}", stored).replace("{places}", &places);
        for row in send(sender, connection, &sql).await? {
            let (place, version): (&str, &str) = (row.try_get(0)?, row.try_get(2)?);
            let tree: Option<&str> = row.try_get(3)?;
            let place = (place.chars().next().unwrap_or_default(), oid(row.try_get(1)?));
            let refers_to = references(tree.unwrap_or_default());
            self.0.insert(place, Expression { version: version.into(), refers_to });
        }
        Ok(())
    }
}

/// An OID as the SQL returns it.
fn oid(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// What [`FACTS`] returns.
#[derive(Default)]
struct Facts {
    graph: Graph,
    functions: HashSet<Box<str>>,
    own: Vec<Function>,
    operators: Vec<(Object, Box<str>)>,
    hidden: Vec<(Object, HiddenUse)>,
    stored: Vec<Stored>,
}

struct Function {
    object: Object,
    name: Box<str>,
    is_attribute: bool,
}

/// A stored expression, and the object that has it.
struct Stored {
    object: Object,
    place: Place,
    version: Box<str>,
}

impl Facts {
    fn of(rows: &[PgRow]) -> Result<Self, sqlx::Error> {
        let mut facts = Self::default();
        for row in rows {
            let object = |kind: &str, number: &str| -> Result<Option<Object>, sqlx::Error> {
                let kind: Option<&str> = row.try_get(kind)?;
                let number: Option<i64> = row.try_get(number)?;
                Ok(kind.zip(number).and_then(|(kind, number)| Object::of(kind, oid(number))))
            };
            let name = || row.try_get::<&str, _>("name").map(Box::<str>::from);
            let (subject, target) = match row.try_get("row")? {
                "s" => (object("kind", "oid")?, None),
                _ => (object("kind", "oid")?, object("target_kind", "target")?),
            };
            match (row.try_get("row")?, subject, target) {
                ("f", ..) => {
                    facts.functions.insert(name()?);
                }
                (kind @ ("p" | "a"), Some(object), _) => {
                    if row.try_get::<Option<&str>, _>("target_kind")?.is_some() {
                        facts.graph.taint(object);
                    }
                    facts.own.push(Function { object, name: name()?, is_attribute: kind == "a" });
                }
                ("r", Some(relation), _) => facts.graph.taint(relation),
                ("o", Some(operator), _) => facts.operators.push((operator, name()?)),
                ("e", Some(from), Some(to)) => facts.graph.refers(from, to),
                ("h", _, Some(target)) => facts.hidden.push((target, HiddenUse(name()?))),
                ("s", Some(object), _) => {
                    let place: &str = row.try_get("target_kind")?;
                    let key = oid(row.try_get("target")?);
                    let place = (place.chars().next().unwrap_or_default(), key);
                    facts.stored.push(Stored { object, place, version: name()? });
                }
                _ => {}
            }
        }
        Ok(facts)
    }

    /// The catalogue, but for the names of relations and types.
    fn into_catalogue(self, tainted: &HashSet<Object>) -> Catalogue {
        let mut catalogue = Catalogue { functions: self.functions, ..Catalogue::default() };
        let is_harmless = |Function { object, name, .. }: &Function| {
            object.oid < FIRST_OWN_OID && makes_a_named_type(name)
        };
        let has_tainted_type =
            tainted.iter().any(|object| matches!(object.kind, Kind::Type | Kind::CastTarget));
        let own = self.own.into_iter().filter(|own| has_tainted_type || !is_harmless(own));
        for Function { name, is_attribute, object } in own {
            if tainted.contains(&object) {
                if is_attribute {
                    catalogue.attributes.insert(name.clone());
                }
                catalogue.volatile.insert(name);
            }
        }
        let operators = self.operators.into_iter().filter(|(object, _)| tainted.contains(object));
        catalogue.operators = operators.map(|(_, name)| name).collect();
        catalogue.operators.sort();
        catalogue.operators.dedup();
        let hidden = self.hidden.into_iter().filter(|(object, _)| tainted.contains(object));
        catalogue.hidden = hidden.map(|(_, hidden)| hidden).collect();
        catalogue.hidden.sort();
        catalogue.hidden.dedup();
        catalogue
    }
}
