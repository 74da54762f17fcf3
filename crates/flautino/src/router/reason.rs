//! Why a statement went where it went.

use serde::Serialize;

/// Makes the enum, the list of its values and their texts from one list.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident => $text:literal,)+) => {
        /// Why a statement went to the node it went to.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])+ #[serde(rename = $text)] $name,)+
        }

        impl Reason {
            /// All of them, in the order of the counters.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// As in status, spans and `Server-Timing`: `floor_met`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// The engine has one node, or is not open.
    MainNode => "main_node",
    /// The handle names its node.
    NamedNode => "named_node",
    /// The handle asks for the primary.
    PrimaryChosen => "primary_chosen",
    /// The handle asks for a replica.
    ReplicaChosen => "replica_chosen",
    /// It may change something.
    Write => "write",
    /// A read on the primary: the session wrote, and no position of that is known yet.
    OwnWrite => "own_write",
    /// A read on the primary: the session asks for `Strong` consistency.
    Strong => "strong",
    /// A read on the primary: the configuration says `mode = "primary"`.
    PrimaryMode => "primary_mode",
    /// A read on the primary: the session's token says so, since no position could be had.
    TokenWindow => "token_window",
    /// A read on the primary: the session's token is of another system or timeline, is further
    /// than the primary, or cannot be read.
    ForeignToken => "foreign_token",
    /// A read on a replica: the session need not see anything in particular.
    NoFloor => "no_floor",
    /// A read on a replica that has replayed what the session must see.
    FloorMet => "floor_met",
    /// A read on the node that showed the session its latest state.
    SameNode => "same_node",
    /// A read on the primary: no replica has replayed what the session must see.
    FloorAhead => "floor_ahead",
    /// A read on the primary: the replicas answer, and lag too far behind.
    Lagging => "lagging",
    /// A read on the primary: no replica answers.
    NoReplica => "no_replica",
    /// A read on a replica that may lag: the primary does not answer, or is left to writes.
    Stale => "stale",
    /// A read that a replica refused as a write, and that the primary runs instead.
    Rescued => "rescued",
    /// A read that is run again, since its first node failed.
    Retried => "retried",
}

impl Reason {
    /// Whether the router chose the node, and not the user.
    pub(crate) const fn is_routed(self) -> bool {
        !matches!(
            self,
            Self::MainNode | Self::NamedNode | Self::PrimaryChosen | Self::ReplicaChosen
        )
    }

    /// Whether the primary serves in place of replicas, and so within its budget for that.
    #[must_use]
    pub const fn is_fallback(self) -> bool {
        matches!(
            self,
            Self::TokenWindow
                | Self::ForeignToken
                | Self::FloorAhead
                | Self::Lagging
                | Self::NoReplica
        )
    }
}
