//! Declaring settings: each key stands once, with its type, its default and the way it is read.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::libpq::{self, Fixed, Meaning};

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

            fn values(&self) -> Vec<(&'static str, String)> {
                let mut values = Vec::new();
                $(values.extend(self.$inner.values());)?
                values.extend([$((stringify!($key), format!("{:?}", self.$key))),*]);
                values
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

    /// Each key with its value, secrets included.
    fn values(&self) -> Vec<(&'static str, String)>;

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
        let mut given = Vec::new();
        while let Some(key) = map.next_key_seed(KeySeed::<T>(&given, PhantomData))? {
            match key {
                Known::Key(key) => {
                    settings.read(key, &mut map)?;
                    given.push(key);
                }
                Known::Fixed(fixed) => map.next_value_seed(fixed)?,
            }
        }
        Ok(settings)
    }
}

/// A key that was read.
enum Known {
    /// One of the keys of the settings, under its own name or libpq's.
    Key(&'static str),
    /// One of libpq's, with which nothing can be chosen.
    Fixed(Fixed),
}

/// Reads one of the keys of `T`; those of the list were given before.
///
/// An unknown key is an error while the key itself is read, because only then does the error's
/// path end with that key.
struct KeySeed<'a, T>(&'a [&'static str], PhantomData<T>);

impl<'de, T: Settings> DeserializeSeed<'de> for KeySeed<'_, T> {
    type Value = Known;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Known, D::Error> {
        let key = String::deserialize(deserializer)?;
        let keys = T::keys();
        let own = |name: &str| keys.iter().copied().find(|known| *known == name);
        let meaning = || own("ssl_mode").and_then(|_| libpq::meaning(&key));
        let known = match own(&key) {
            Some(known) => known,
            None => match meaning() {
                Some(Meaning::Fixed(fixed)) => return Ok(Known::Fixed(fixed)),
                Some(Meaning::Key(name)) if own(name).is_some() => name,
                _ => {
                    let expected = keys.join("`, `");
                    let message = format!("unknown field `{key}`, expected one of `{expected}`");
                    return Err(D::Error::custom(message));
                }
            },
        };
        if self.0.contains(&known) {
            let message = format!("`{known}` is given twice, once under libpq's name; give one");
            return Err(D::Error::custom(message));
        }
        Ok(Known::Key(known))
    }
}

impl<'de> DeserializeSeed<'de> for Fixed {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(FixedVisitor(self))
    }
}

/// Reads a value of libpq's, which TOML may have as a number too. It may be a secret, so no error shows it.
struct FixedVisitor(Fixed);

impl Visitor<'_> for FixedVisitor {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a number")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.0.check(text).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.visit_str(if value { "1" } else { "0" })
    }
}
