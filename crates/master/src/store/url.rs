//! Addresses of stores, which may hold a password.

use std::fmt;

/// The URL of a store. Shown without its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(String);

impl StoreUrl {
    /// As somebody has configured it.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, url) in self.0.split(',').enumerate() {
            let url = url.trim();
            let url = url.split('?').next().unwrap_or(url);
            f.write_str(if n == 0 { "" } else { "," })?;
            match url.split_once("://") {
                // Everything before the last `@` of the host may be secret.
                Some((scheme, rest)) => {
                    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                    write!(f, "{scheme}://{host}{path}")?;
                }
                None => f.write_str("***")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let shown = |url: &str| StoreUrl::new(url).to_string();
        assert_eq!(shown("postgres://me:se@cret@db:5432/run?sslmode=require"), "postgres://db:5432/run");
        assert_eq!(shown("http://a:b@x:1, https://y:2"), "http://x:1,https://y:2");
        assert_eq!(shown("host=x password=y"), "***");
    }
}
