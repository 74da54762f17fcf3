//! What leads to a function that writes: the objects of a catalogue as a graph, and the stored
//! expressions by which they refer to each other.
//!
//! PostgreSQL keeps views, policies, checks and SQL bodies as node trees, such as `{FUNCEXPR :funcid
//! 42 …}`. They name each object by its OID, implicit casts and operators included.

use std::collections::{HashMap, HashSet};

/// OIDs from this one on are of the user's own objects (PostgreSQL's `FirstNormalObjectId`).
pub(super) const FIRST_OWN_OID: u32 = 16384;

/// An object of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) oid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Function,
    Operator,
    Relation,
    /// A type: whoever has a value of it may run what it refers to.
    Type,
    /// A type as the name of an explicit cast's target: who writes the name runs the cast.
    CastTarget,
}

impl Object {
    /// An object by the letter that the SQL uses for its kind.
    pub(super) fn of(letter: &str, oid: u32) -> Option<Self> {
        let kind = match letter {
            "p" => Kind::Function,
            "o" => Kind::Operator,
            "r" => Kind::Relation,
            "t" => Kind::Type,
            "n" => Kind::CastTarget,
            _ => return None,
        };
        Some(Self { kind, oid })
    }
}

/// Which objects refer to which.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// The objects that refer to each object.
    referrers: HashMap<Object, Vec<Object>>,
    tainted: HashSet<Object>,
}

impl Graph {
    /// The object `from` refers to the object `to`.
    pub(super) fn refers(&mut self, from: Object, to: Object) {
        self.referrers.entry(to).or_default().push(from);
    }

    /// The object writes, or may write.
    pub(super) fn taint(&mut self, object: Object) {
        self.tainted.insert(object);
    }

    /// Returns all objects that lead to a tainted one.
    pub(super) fn close(mut self) -> HashSet<Object> {
        let mut open: Vec<Object> = self.tainted.iter().copied().collect();
        while let Some(object) = open.pop() {
            let through_cast = object.kind == Kind::CastTarget;
            // A cast to a type is also part of one to its array, a domain over it, or a row type that
            // has a column of it. No value of such a type runs the cast, only who writes a name.
            let to = if through_cast { Object { kind: Kind::Type, ..object } } else { object };
            for from in self.referrers.get(&to).into_iter().flatten() {
                let from = match (through_cast, from.kind) {
                    (false, _) => *from,
                    (true, Kind::Type) => Object { kind: Kind::CastTarget, ..*from },
                    (true, Kind::Relation) => {
                        let types = self.referrers.get(from).into_iter().flatten();
                        for row in types.filter(|object| object.kind == Kind::Type) {
                            let row = Object { kind: Kind::CastTarget, ..*row };
                            if self.tainted.insert(row) {
                                open.push(row);
                            }
                        }
                        continue;
                    }
                    (true, _) => continue,
                };
                if self.tainted.insert(from) {
                    open.push(from);
                }
            }
        }
        self.tainted
    }
}

/// Returns the objects that a node tree refers to. Types and relations that come with PostgreSQL are
/// left out, but for its views.
pub(super) fn references(tree: &str) -> Box<[Object]> {
    let mut found = Vec::new();
    // In a name a space is escaped, so a field is never part of one.
    for part in tree.split(" :").skip(1) {
        let Some((field, value)) = part.split_once(' ') else { continue };
        let Some(kind) = kind_of(field) else { continue };
        let numbers = value.strip_prefix("(o ").unwrap_or(value);
        let is_list = numbers.len() != value.len();
        for number in numbers.split(' ').take(if is_list { usize::MAX } else { 1 }) {
            let digits = number.trim_end_matches([')', '}']);
            let Ok(oid) = digits.parse() else { break };
            if oid != 0 && (kind != Kind::Type || oid >= FIRST_OWN_OID) {
                found.push(Object { kind, oid });
            }
            if digits.len() != number.len() {
                break;
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found.into()
}

/// What the OIDs in a field of a node tree are of, by the names of PostgreSQL's `primnodes.h` and
/// `parsenodes.h`. In doubt a field counts: an object too many makes at most a needless write.
fn kind_of(field: &str) -> Option<Kind> {
    let ends = |ends: &[&str]| ends.iter().any(|end| field.ends_with(end));
    if ends(&["funcid", "fnoid", "InRangeFunc"]) || field == "tsmhandler" {
        Some(Kind::Function)
    } else if ends(&["opno", "opnos", "eqop", "sortop", "neop"]) {
        Some(Kind::Operator)
    } else if field == "relid" {
        Some(Kind::Relation)
    } else if ends(&["type", "types", "typeid", "typeId", "typid"]) {
        Some(Kind::Type)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        let (letter, oid) = text.split_at(1);
        Object::of(letter, oid.parse().unwrap()).unwrap()
    }

    fn objects(text: &str) -> Vec<Object> {
        let mut objects: Vec<_> = text.split_whitespace().map(object).collect();
        objects.sort_unstable();
        objects
    }

    #[test]
    fn a_node_tree_names_objects_by_their_oids() {
        for (tree, expected) in [
            ("{FUNCEXPR :funcid 2880 :funcresulttype 16 :args ({CONST :consttype 20})}", "p2880"),
            ("{FUNCEXPR :funcid 17000 :funcresulttype 17001 :location -1}", "p17000 t17001"),
            // The function of an operator is not stored, its operator is.
            ("{OPEXPR :opno 96 :opfuncid 0 :opresulttype 16}", "o96"),
            ("{AGGREF :aggfnoid 2108 :aggtype 20 :aggargtypes (o 23 17001)}", "p2108 t17001"),
            ("{WINDOWFUNC :winfnoid 3100 :wintype 20}", "p3100"),
            ("{ROWCOMPARE :rctype 1 :opnos (o 97 17002) :opfamilies (o 1976 1976)}", "o97 o17002"),
            ("{SORTGROUPCLAUSE :tleSortGroupRef 1 :eqop 96 :sortop 97 :hashable true}", "o96 o97"),
            ("{RTE :rtekind 0 :relid 17003 :relkind v :rellockmode 1}", "r17003"),
            ("{RTE :rtekind 0 :relid 12001 :relkind v :rellockmode 1}", "r12001"),
            ("{COERCETODOMAIN :arg {VAR :vartype 23} :resulttype 17004 :coercionform 1}", "t17004"),
            ("{COERCEVIAIO :resulttype 17004}", "t17004"),
            ("{RANGETBLFUNCTION :funccoltypes (o 17004 23) :funccolcount 2}", "t17004"),
            ("{TABLESAMPLECLAUSE :tsmhandler 3313 :args <>}", "p3313"),
            ("{MINMAX :minmaxtype 17005}", "t17005"),
            ("{A :funcid 5}) :opnos (o) :relid 0}", "p5"),
            // A name cannot pass for a field, and one that looks like one does no harm.
            ("{ALIAS :aliasname a\\ :funcid\\ 7 :colnames (\":funcid\" \"b\")}", ""),
            ("", ""),
        ] {
            assert_eq!(*references(tree), *objects(expected), "{tree}");
        }
    }

    fn closure(tainted: &str, edges: &str) -> Vec<Object> {
        let mut graph = Graph::default();
        objects(tainted).into_iter().for_each(|object| graph.taint(object));
        for edge in edges.split_whitespace() {
            let (from, to) = edge.split_once('>').unwrap();
            graph.refers(object(from), object(to));
        }
        let mut closed: Vec<_> = graph.close().into_iter().collect();
        closed.sort_unstable();
        closed
    }

    #[test]
    fn what_leads_to_a_tainted_object_is_tainted() {
        for (tainted, edges, expected) in [
            ("p1", "", "p1"),
            ("p1", "r2>p1 r3>r2 r4>p9 r9>r4", "p1 r2 r3"),
            ("p1", "o2>p1 t3>o2 p4>t3 r5>t3 t6>r5 t7>t6", "p1 o2 t3 p4 r5 t6 t7"),
            ("r1", "r2>r1 r1>r2", "r1 r2"),
            ("p1", "p2>p3 p3>p2", "p1"),
            // An object is one of its kind: the same number is another object elsewhere.
            ("p1", "r2>t1 r3>r1 r4>p1", "p1 r4"),
        ] {
            assert_eq!(closure(tainted, edges), objects(expected), "{tainted}: {edges}");
        }
    }

    #[test]
    fn an_explicit_cast_taints_names_of_types_but_no_values() {
        let edges = "n10>p1 t11>t10 t12>t11 r20>t10 t21>r20 t22>t21 p30>t10 o31>t10 r40>r20";
        let expected = "p1 n10 n11 n12 n21 n22";
        assert_eq!(closure("p1", edges), objects(expected));
    }
}
