//! Judges texts that have a form of their own: ids, URLs, endpoints, keys, templates, log filters.
//!
//! Knows no key. Pure except for the CA file, which must be readable.

use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::problems::Fault;
use super::table::Input;
use super::{files, parse};
use crate::azure::SigningKey;
use crate::azure::hub_id::check_device_id;

/// A few hundred CA certificates.
const MAX_CA_BYTES: u64 = 1024 * 1024;

/// The Things Stack's limit for ids of applications and webhooks.
const MAX_ID_CHARS: usize = 36;

/// Azure's id scopes are `0ne` and eight characters; an emulator's may differ.
const MAX_ID_SCOPE_CHARS: usize = 64;

/// IoT Hub's limit for a DTDL model id.
const MAX_MODEL_ID_CHARS: usize = 128;

/// Long enough for any base64 of 256 random bytes.
const MAX_SECRET_BYTES: usize = 512;

/// `^[a-z0-9](-?[a-z0-9]){2,}$`, at most 36 characters: ids of applications and webhooks at The Things Stack.
pub(super) fn things_stack_id(id: &str) -> Result<(), Fault> {
    let outer = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = id.as_bytes();
    let known = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    let length = (3..=MAX_ID_CHARS).contains(&bytes.len());
    if known && length && outer(bytes.first()) && outer(bytes.last()) && !id.contains("--") {
        return Ok(());
    }
    let reason = "no id of The Things Stack: these have 3 to 36 of a-z, 0-9 and single dashes between them";
    Err(Fault::new(reason, "copy the id from the console of The Things Stack"))
}

/// The id of a webhook.
pub(super) fn webhook_id(input: &Input<'_>) -> Result<String, Fault> {
    let id = parse::text(input)?;
    things_stack_id(&id).map(|()| id)
}

/// One secret of the webhook: it travels in a header.
pub(super) fn webhook_secret(secret: &str) -> Result<(), Fault> {
    if secret.trim().is_empty() {
        return Err(Fault::new(
            "an empty secret would let everyone in",
            "remove it, or write a long random text",
        ));
    }
    if secret.len() > MAX_SECRET_BYTES {
        let reason = format!("a secret is longer than {MAX_SECRET_BYTES} bytes");
        return Err(Fault::new(reason, "use a random text of 32 to 64 characters"));
    }
    if !secret.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        let reason = "a secret has characters that HTTP headers can't carry";
        return Err(Fault::new(reason, "use letters, digits and punctuation of ASCII"));
    }
    Ok(())
}

/// DPS id scope.
pub(super) fn id_scope(input: &Input<'_>) -> Result<String, Fault> {
    let scope = parse::text(input)?;
    if scope.len() <= MAX_ID_SCOPE_CHARS && scope.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Ok(scope);
    }
    let fix = "copy \"ID Scope\" from the overview page of the Device Provisioning Service; it looks like 0ne00123ABC";
    Err(Fault::new("no id scope: these have letters and digits only", fix))
}

/// An enrollment group's key.
pub(super) fn group_key(key: &str) -> Result<(), Fault> {
    let fix =
        "copy the primary key of the enrollment group (symmetric key attestation) from the Azure portal";
    SigningKey::from_base64(key).map(|_| ()).ok_or_else(|| Fault::new("no base64", fix))
}

/// A key of The Things Stack's API.
pub(super) fn api_key(key: &str) -> Result<(), Fault> {
    if key.len() <= MAX_SECRET_BYTES && key.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Fault::new("no API key: these are one word", "copy the key from the console, it begins with NNSXS."))
}

/// Host, `host:port` or `https://host[:port]` of DPS.
pub(super) fn dps_endpoint(input: &Input<'_>) -> Result<String, Fault> {
    let endpoint = parse::text(input)?;
    let fix = "write a host such as \"global.azure-devices-provisioning.net\", host:port, \
               or an https:// URL without a path";
    let url = if endpoint.contains("://") { endpoint.clone() } else { format!("https://{endpoint}") };
    let url = Url::parse(&url).map_err(|error| Fault::new(format!("no endpoint: {error}"), fix))?;
    if url.scheme() != "https" {
        return Err(Fault::new("DPS gets keys and must be reached over https", fix));
    }
    if !url.has_host() || url.path() != "/" || has_more_than_a_place(&url) {
        return Err(Fault::new("more than a host and a port", fix));
    }
    Ok(endpoint)
}

/// `http://[user:password@]host:port` of a proxy.
pub(super) fn proxy(proxy: &str) -> Result<(), Fault> {
    let fix = "write \"http://host:port\", or \"http://user:password@host:port\"";
    let url = Url::parse(proxy).map_err(|error| Fault::new(format!("no URL: {error}"), fix))?;
    if url.scheme() != "http" {
        return Err(Fault::new("only a proxy spoken to over http is supported (TLS goes through it)", fix));
    }
    if !url.has_host() || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(Fault::new("more or less than a host and a port", fix));
    }
    Ok(())
}

/// The base URL of The Things Stack.
pub(super) fn base_url(input: &Input<'_>) -> Result<String, Fault> {
    let text = parse::text(input)?;
    let fix = "write the address of the console's cluster, such as \"https://eu1.cloud.thethings.network\"";
    let url = Url::parse(&text).map_err(|error| Fault::new(format!("no URL: {error}"), fix))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(Fault::new("no http or https URL", fix));
    }
    if has_more_than_a_place(&url) {
        return Err(Fault::new("user, password, query and fragment have no use here", fix));
    }
    let path = url.path().trim_end_matches('/');
    if path.ends_with("/api/v3") || path.ends_with("/console") {
        return Err(Fault::new(format!("ends with {path}, which the API's paths do not begin with"), fix));
    }
    Ok(text)
}

fn has_more_than_a_place(url: &Url) -> bool {
    !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
}

/// A DTDL model id.
pub(super) fn model_id(input: &Input<'_>) -> Result<String, Fault> {
    let id = parse::text(input)?;
    let named = id.strip_prefix("dtmi:").and_then(|rest| rest.rsplit_once(';'));
    let versioned =
        named.is_some_and(|(path, version)| !path.is_empty() && version.bytes().all(|b| b.is_ascii_digit()));
    if versioned && id.len() <= MAX_MODEL_ID_CHARS && id.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(id);
    }
    let fix = "write the model's DTMI, such as \"dtmi:com:example:Thermometer;1\"";
    Err(Fault::new(format!("no DTDL model id of at most {MAX_MODEL_ID_CHARS} characters"), fix))
}

const PLACEHOLDERS: [&str; 4] = ["device_id", "application_id", "dev_eui", "tenant"];

/// How a device is named at Azure: `device_id`, `dev_eui` or a template.
pub(super) fn hub_id(input: &Input<'_>) -> Result<String, Fault> {
    const FIX: &str = "use \"device_id\", \"dev_eui\", or a template with \
                       {device_id}, {application_id}, {dev_eui} and {tenant}";
    let template = parse::text(input)?;
    if template == "device_id" || template == "dev_eui" {
        return Ok(template);
    }
    let mut used = Vec::new();
    let mut rest = template.as_str();
    while let Some((_, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or_else(|| Fault::new("a { has no }", FIX))?;
        if !PLACEHOLDERS.contains(&name) {
            return Err(Fault::new("a name in braces is not known", FIX));
        }
        used.push(name);
        rest = after;
    }
    if !used.iter().any(|name| matches!(*name, "device_id" | "dev_eui")) {
        return Err(Fault::new("every end device would get the same id at Azure", FIX));
    }
    check_device_id(&sample_hub_id(&template))
        .map_err(|problem| Fault::new(format!("no id for IoT Hub: it {problem}"), FIX))?;
    Ok(template)
}

/// The shortest id that a template could give; all that is fixed in it stays.
pub(super) fn sample_hub_id(template: &str) -> String {
    PLACEHOLDERS.iter().fold(template.to_owned(), |id, name| id.replace(&format!("{{{name}}}"), "0"))
}

/// A `tracing` filter. A word that is no level would be taken for a module's name, and silence everything else.
pub(super) fn log_level(input: &Input<'_>) -> Result<String, Fault> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let fix =
        "write error, warn, info, debug or trace, or a filter such as \"info,tti_connector::spool=debug\"";
    let level = parse::text(input)?;
    for directive in level.split(',').map(str::trim) {
        let bare = !directive.contains(['=', '[', ':']);
        if bare && !LEVELS.iter().any(|known| directive.eq_ignore_ascii_case(known)) {
            return Err(Fault::new("not a log level", fix));
        }
    }
    EnvFilter::builder().parse(&level).map_err(|error| Fault::new(format!("no log filter: {error}"), fix))?;
    Ok(level)
}

/// A readable PEM file with at least one certificate.
pub(super) fn ca_file(input: &Input<'_>) -> Result<PathBuf, Fault> {
    let path = parse::path(input)?;
    let fix = "name a readable PEM file with at least one CA certificate";
    let pem = files::read_text(&path, MAX_CA_BYTES)
        .map_err(|error| Fault::new(format!("{} can't be read: {error}", files::shown(&path)), fix))?;
    let mut certificates = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        certificate
            .map_err(|error| Fault::new(format!("{} is not PEM: {error}", files::shown(&path)), fix))?;
        certificates += 1;
    }
    if certificates == 0 {
        return Err(Fault::new(format!("{} has no certificate", files::shown(&path)), fix));
    }
    Ok(path)
}
