//! [`Reason`]: why a statement went to the node it went to.

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

            /// The reason's name in the status, in spans and in `Server-Timing`, such as
            /// `floor_met`.
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
    /// The statement may change something.
    Write => "write",
    /// A read on the primary: the session wrote, and no position that covers the write is known
    /// yet.
    OwnWrite => "own_write",
    /// A read on the primary: the session asks for `Strong` consistency.
    Strong => "strong",
    /// A read on the primary: the configuration says `mode = "primary"`.
    PrimaryMode => "primary_mode",
    /// A read on the primary: the session's token asks for it for a while, since the position of a
    /// write could not be learnt.
    TokenWindow => "token_window",
    /// A read on the primary: the session's token is of another system or timeline, is impossibly
    /// far ahead of the primary, or cannot be read.
    ForeignToken => "foreign_token",
    /// A read on a replica: there is nothing in particular that the session must see.
    NoFloor => "no_floor",
    /// A read on a replica that has replayed what the session must see.
    FloorMet => "floor_met",
    /// A read on the node that served the session's latest read, or on the primary: no other node
    /// is known to have what that read saw.
    SameNode => "same_node",
    /// A read on the primary: no replica has replayed what the session must see.
    FloorAhead => "floor_ahead",
    /// A read on the primary: the replicas are up, but lag too far behind.
    Lagging => "lagging",
    /// A read on the primary: no replica can be used.
    NoReplica => "no_replica",
    /// A read on a replica that may lag: there is no primary, or its connections are reserved for
    /// writes.
    Stale => "stale",
    /// A read that a replica could not run, and that the primary runs instead.
    Rescued => "rescued",
    /// A statement that is run again, since its first attempt failed without an effect.
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

    /// Whether the primary serves a read in place of replicas, for which it has a limited budget.
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
