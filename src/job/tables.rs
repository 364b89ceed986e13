//! `[tables]`: where `raw` and `counts` lie.

use std::collections::BTreeMap;
use std::fmt;

use super::error::JobError;
use super::read::{Section, Value};
use super::redact::Redacted;

/// Schemes of `tables.url`; anything else is a path of this machine.
const SCHEMES: [&str; 8] = ["file", "memory", "s3", "s3a", "gs", "az", "abfs", "abfss"];

/// Most buckets: their numbers are 16 bits wide.
const BUCKETS_MAX: u64 = 1 << 16;

/// Where the tables are.
#[derive(Clone, PartialEq, Eq)]
pub struct Tables {
    /// The folder of the tables `raw` and `counts`, without a slash at its end: a URL (`s3://bucket/path`, `gs://`, `az://`,
    /// `file://`, `memory://`), or a local path, seen from where the process was started.
    pub url: String,
    /// Buckets of customers: a power of two, at most 65536.
    pub buckets: u32,
    /// Options as `object_store` names them; those without a value are left out.
    pub options: BTreeMap<String, String>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables")
            .field("url", &self.url)
            .field("buckets", &self.buckets)
            .field("options", &Redacted(&self.options))
            .finish()
    }
}

pub(super) fn read(root: &Section<'_>) -> Result<Tables, JobError> {
    let section = root.need("tables", "a section [tables]")?.section(&["url", "buckets", "options"])?;
    let url = url(&section.need("url", "a URL or a local path")?)?;
    let buckets = section.integer("buckets", 8, 1..=BUCKETS_MAX)? as u32;
    if !buckets.is_power_of_two() {
        let value = section.need("buckets", "a power of two")?;
        let (lower, upper) = (buckets.next_power_of_two() / 2, buckets.next_power_of_two());
        return Err(value.fault(buckets.to_string(), format!("a power of two, as {lower} or {upper}")));
    }
    let mut options = BTreeMap::new();
    if let Some(value) = section.get("options") {
        for (name, value) in value.entries()? {
            let text = value.option()?;
            if !text.is_empty() {
                options.insert(name.to_owned(), text);
            }
        }
    }
    Ok(Tables { url, buckets, options })
}

fn url(value: &Value<'_>) -> Result<String, JobError> {
    let text = value.text()?;
    if let Some((scheme, rest)) = text.split_once("://") {
        if !SCHEMES.contains(&scheme) {
            let hint = super::error::did_you_mean(scheme, SCHEMES);
            let expected = format!("one of the schemes {}, or a local path{hint}", SCHEMES.join(", "));
            return Err(value.fault(format!("the scheme {scheme:?}"), expected));
        }
        let parsed =
            url::Url::parse(&text).map_err(|error| value.fault(format!("a URL that is not one ({error})"), "a URL"))?;
        // `abfss://container@account` is how Azure names a place; elsewhere what stands before an `@` is a secret.
        if parsed.password().is_some() || (!parsed.username().is_empty() && !scheme.starts_with("abfs")) {
            return Err(value.fault("a user or password inside the URL", "them in [tables.options]"));
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(value.fault("a URL with `?` or `#`", "a URL without them"));
        }
        let local = matches!(scheme, "file" | "memory");
        if !local && rest.split('/').next().is_none_or(str::is_empty) {
            return Err(value.fault("a URL without a bucket", format!("{scheme}://bucket/path")));
        }
        if scheme == "file" && !rest.starts_with('/') {
            return Err(value.fault(format!("{text:?}"), "file:///path, with three slashes"));
        }
    }
    let trimmed = text.trim_end_matches('/');
    Ok(if trimmed.is_empty() || trimmed.ends_with(':') { text } else { trimmed.to_owned() })
}
