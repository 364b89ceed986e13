//! `[tables]`: where `raw` and `counts` are.
//!
//! In: the section of a job file. Out: [`Tables`], or the first fault. Pure.

use std::collections::BTreeMap;
use std::fmt;

use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;

use super::error::JobError;
use super::read::{Section, Value};
use super::redact::Redacted;

/// Schemes of `tables.url`; anything else is a local path.
const SCHEMES: [&str; 8] = ["file", "memory", "s3", "s3a", "gs", "az", "abfs", "abfss"];

/// The options that are used most; the error for an unknown option names them.
const OPTIONS: [&str; 12] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "endpoint",
    "region",
    "allow_http",
    "virtual_hosted_style_request",
    "conditional_put",
    "service_account",
    "service_account_key",
    "account_name",
    "account_key",
];

/// The largest number of buckets: their numbers have 16 bits.
const BUCKETS_MAX: u64 = 1 << 16;

/// Where the tables are.
#[derive(Clone, PartialEq, Eq)]
pub struct Tables {
    /// The folder of the tables `raw` and `counts`, without a slash at its end: a URL (`s3://bucket/path`, `gs://`, `az://`, `file://`,
    /// `memory://`), or a local path, relative to the working directory of the process.
    pub url: String,
    /// Number of buckets of customers: a power of two, at most 65536.
    pub buckets: u32,
    /// Options, named as in `object_store`; those without a value are left out.
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
        return Err(value.fault(buckets.to_string(), format!("a power of two, such as {lower} or {upper}")));
    }
    let mut options = BTreeMap::new();
    if let Some(value) = section.get("options") {
        for (name, value) in value.entries()? {
            if !is_known(&url, name) {
                let hint = super::error::did_you_mean(name, OPTIONS);
                return Err(value.fault(
                    "an option that this store does not know",
                    format!("an option name of object_store{hint}"),
                ));
            }
            let text = value.option()?;
            if !text.is_empty() {
                options.insert(name.to_owned(), text);
            }
        }
    }
    Ok(Tables { url, buckets, options })
}

/// Whether the store of a URL knows this option. A local folder accepts all options, so that one job file can serve it and a store. An
/// option with a wrong name would silently have no effect: an access key, for example, would not be used.
fn is_known(url: &str, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("s3" | "s3a") => name.parse::<AmazonS3ConfigKey>().is_ok(),
        Some("gs") => name.parse::<GoogleConfigKey>().is_ok(),
        Some("az" | "abfs" | "abfss") => name.parse::<AzureConfigKey>().is_ok(),
        _ => true,
    }
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
            url::Url::parse(&text).map_err(|error| value.fault(format!("an invalid URL ({error})"), "a valid URL"))?;
        // In Azure, `abfss://container@account` names a place. Elsewhere, what is before an `@` is a secret.
        if parsed.password().is_some() || (!parsed.username().is_empty() && !scheme.starts_with("abfs")) {
            return Err(value.fault("a user or password in the URL", "them in [tables.options]"));
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
