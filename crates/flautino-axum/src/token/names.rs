//! Under which names tokens travel, so that those of two engines do not take each other's place.

use http::HeaderName;

use crate::name::short_name;

/// The header that carries a token, on requests and responses, unless
/// [`token_name`](crate::EngineLayer::token_name) says otherwise.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("flautino-token");

/// The cookie that carries a token, unless [`token_name`](crate::EngineLayer::token_name) says otherwise. Cookies
/// whose names go on with `_` are copies of it.
pub const TOKEN_COOKIE: &str = "flautino_token";

/// The names of a layer's tokens, and the path of their cookies.
#[derive(Debug, Clone)]
pub(crate) struct TokenNames {
    pub(super) header: HeaderName,
    pub(super) cookie: String,
    pub(super) path: String,
}

impl Default for TokenNames {
    fn default() -> Self {
        Self { header: TOKEN_HEADER, cookie: TOKEN_COOKIE.to_owned(), path: "/".to_owned() }
    }
}

/// A path is not one that a cookie can have.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "`{0}` cannot be the path of the token's cookies (`EngineLayer::token_path`): it begins with `/` and has no \
     `;`, no spaces and only ASCII characters"
)]
pub struct InvalidTokenPath(String);

impl TokenNames {
    /// Names the header, and the cookie after it.
    pub(crate) fn named(self, header: HeaderName) -> Self {
        let cookie = header.as_str().replace('-', "_");
        Self { header, cookie, ..self }
    }

    /// Names both after a type, by the last part of its path.
    pub(crate) fn named_after<N>(self) -> Self {
        let name = short_name::<N>().to_ascii_lowercase();
        match HeaderName::try_from(format!("{name}-{TOKEN_HEADER}")) {
            Ok(header) => self.named(header),
            // A name of other letters.
            Err(_) => self,
        }
    }

    pub(crate) fn at(self, path: &str) -> Result<Self, InvalidTokenPath> {
        let is_fit = |byte: u8| byte.is_ascii_graphic() && byte != b';';
        if path.starts_with('/') && path.bytes().all(is_fit) {
            Ok(Self { path: path.to_owned(), ..self })
        } else {
            Err(InvalidTokenPath(path.to_owned()))
        }
    }
}
