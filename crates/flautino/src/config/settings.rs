//! Declaring settings: each key stands once, with its type, its default and the way it is read.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// Declares a struct of settings, its `Default` and its `Deserialize`.
///
/// ```text
/// settings! {
///     pub struct ExampleConfig {
///         flatten { pub node: NodeConfig }                 // its keys stand among those below
///         pub count: u32 = 10,                             // read as a `u32`, by default 10
///         pub wait: Duration as Time = SECOND,             // read as a `Time`, then converted
///         pub host: Option<String>,                        // by default `Default::default()`
///     }
/// }
/// ```
///
/// Unknown keys are errors, and every error has the path of its key. With serde's own `flatten`
/// neither holds.
macro_rules! settings {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident {
            $(flatten { $(#[$inner_doc:meta])* pub $inner:ident: $inner_type:ty })?
            $($(#[$doc:meta])* pub $key:ident: $type:ty $(as $reader:ty)? $(= $default:expr)?,)*
        }
    ) => {
        $(#[$attribute])*
        pub struct $name {
            $($(#[$inner_doc])* pub $inner: $inner_type,)?
            $($(#[$doc])* pub $key: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($inner: <$inner_type>::default(),)?
                    $($key: settings!(@default $($default)?),)*
                }
            }
        }

        impl $crate::config::settings::Settings for $name {
            fn keys() -> Vec<&'static str> {
                let mut keys = Vec::new();
                $(keys.extend(<$inner_type>::keys());)?
                keys.extend([$(stringify!($key)),*]);
                keys
            }

            fn read<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut A,
            ) -> Result<(), A::Error> {
                $(if <$inner_type>::keys().contains(&key) {
                    return self.$inner.read(key, map);
                })?
                match key {
                    $(stringify!($key) => {
                        let value: settings!(@reader $type $(, $reader)?) = map.next_value()?;
                        self.$key = value.into();
                    })*
                    _ => unreachable!("`{key}` is no key, so `KnownKey` was an error"),
                }
                Ok(())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::config::settings::deserialize(deserializer)
            }
        }
    };
    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
    (@reader $type:ty) => { $type };
    (@reader $type:ty, $reader:ty) => { $reader };
}
pub(super) use settings;

/// What [`settings!`] makes of a declaration, for [`deserialize`].
pub(super) trait Settings: Default {
    /// The names of all keys, with those of a flattened struct.
    fn keys() -> Vec<&'static str>;

    /// Reads the value of one of the keys into its field.
    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

/// Reads a struct of settings from a map; a key that is absent has its default.
pub(super) fn deserialize<'de, T: Settings, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_map(SettingsVisitor(PhantomData))
}

struct SettingsVisitor<T>(PhantomData<T>);

impl<'de, T: Settings> Visitor<'de> for SettingsVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut settings = T::default();
        while let Some(KnownKey(key, _)) = map.next_key::<KnownKey<T>>()? {
            settings.read(key, &mut map)?;
        }
        Ok(settings)
    }
}

/// One of the keys of `T`.
///
/// An unknown key is an error while the key itself is read, because only then does the error's
/// path end with that key.
struct KnownKey<T>(&'static str, PhantomData<T>);

impl<'de, T: Settings> Deserialize<'de> for KnownKey<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        let keys = T::keys();
        match keys.iter().find(|known| **known == key) {
            Some(known) => Ok(Self(known, PhantomData)),
            None => {
                let expected = keys.join("`, `");
                let message = format!("unknown field `{key}`, expected one of `{expected}`");
                Err(D::Error::custom(message))
            }
        }
    }
}
