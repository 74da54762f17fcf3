//! The guide: from the first query to many instances and failovers, a page a chapter.
//!
//! Read from top to bottom it takes half an hour.
//!
//! 1. [Start](start): an axum app over one database
//! 2. [Replicas](replicas): name them, and reads go there
//! 3. [Consistency](consistency): what a read may miss, and what it never does
//! 4. [Transactions](transactions): for a request, as a closure, by hand
//! 5. [Settings and row-level security](row_level_security): many tenants in one database
//! 6. [Failover](failover): what your users notice when a server goes
//! 7. [Shutdown](shutdown): what is asked is answered
//! 8. [Testing](testing): against real PostgreSQL
//! 9. [Operating](operating): every setting, what to watch, sizes
//! 10. [Several engines](several_engines) in one app
//! 11. [PostgreSQL's relatives](relatives): Aurora, AlloyDB, Neon, Citus, CockroachDB, YugabyteDB
//! 12. [What stands in front of servers](in_front): PgBouncer, HAProxy, pgpool
//! 13. [Moving to flautino](moving): from one pool, from two by hand, from Piccolo
//! 14. [When not to use it](when_not)
//!
//! It is there in the documentation alone. Its examples are compiled as tests: those that need axum by
//! `flautino-axum`, the others here.

/// Declares a page for each chapter, from `docs/guide`. The tests of examples that need axum are in
/// `flautino-axum`, whose `lib.rs` lists the same chapters.
macro_rules! chapters {
    ($($(#[$attribute:meta])* $name:ident,)+) => {
        $(
            $(#[$attribute])*
            #[doc = include_str!(concat!("../docs/guide/", stringify!($name), ".md"))]
            pub mod $name {}
        )+
    };
}

chapters! {
    #[cfg(not(doctest))]
    start,
    replicas,
    consistency,
    #[cfg(not(doctest))]
    transactions,
    #[cfg(not(doctest))]
    row_level_security,
    failover,
    #[cfg(not(doctest))]
    shutdown,
    #[cfg(not(doctest))]
    testing,
    operating,
    #[cfg(not(doctest))]
    several_engines,
    relatives,
    in_front,
    #[cfg(not(doctest))]
    moving,
    when_not,
}
