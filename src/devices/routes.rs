//! Which hub or DPS an application of The Things Stack uses. Connects to none of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::dps::{Endpoint, GLOBAL_ENDPOINT, InvalidEndpoint};
use crate::azure::{ConnectionString, ConnectionStringError, SigningKey};
use crate::config::{Azure, Dps, IotHub};

/// All applications' routes. An application's own hub or DPS wins over the global one.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    global: Option<Route>,
    applications: HashMap<String, Option<Route>>,
    amqp_port: u16,
}

/// How the devices of one application reach Azure.
#[derive(Clone, Debug)]
pub struct Route {
    /// Their hub, or who knows it.
    pub target: Target,
    /// DTDL model id they announce.
    pub model_id: Option<Arc<str>>,
}

/// A hub, or who knows it.
#[derive(Clone, Debug)]
pub enum Target {
    /// One hub for all, by its connection string.
    Hub(Arc<ConnectionString>),
    /// DPS assigns each device its hub.
    Dps(Arc<DpsScope>),
}

/// One enrollment group at one DPS instance.
#[derive(Clone, Debug)]
pub struct DpsScope {
    /// Where it is reached.
    pub endpoint: Endpoint,
    /// The instance's id scope.
    pub id_scope: Arc<str>,
    /// The enrollment group's key, from which each device's is derived.
    pub group_key: SigningKey,
}

/// What is wrong with a route. Begins with the configuration's key.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidRoute {
    /// The connection string can't be read.
    #[error("{0}.iot_hub.connection_string: {1}")]
    ConnectionString(String, ConnectionStringError),
    /// A hub and DPS at the same level.
    #[error("{0}: has both iot_hub.connection_string and dps; keep one")]
    Both(String),
    /// Neither, and nothing global to fall back to.
    #[error("{0}: has neither iot_hub.connection_string nor dps, and there is no global one")]
    Neither(String),
    /// DPS lacks a part.
    #[error("{0}.dps.{1}: is missing; DPS needs id_scope and group_enrollment_key")]
    DpsIncomplete(String, &'static str),
    /// The id scope is not made of letters and digits.
    #[error("{0}.dps.id_scope: is no id scope such as 0ne00123ABC")]
    IdScope(String),
    /// The group's key is not base64.
    #[error("{0}.dps.group_enrollment_key: is not base64")]
    GroupKey(String),
    /// The endpoint can't be used.
    #[error("{0}.dps.endpoint: {1}")]
    Endpoint(String, InvalidEndpoint),
}

impl Routes {
    /// Reads `[azure]`. A field that an application's `dps` leaves out comes from the global `dps`.
    ///
    /// # Errors
    /// All problems, each with its key.
    pub fn new(azure: &Azure) -> Result<Self, Vec<InvalidRoute>> {
        let mut problems = Vec::new();
        // A global `dps` that lacks a part may be there only for the applications to fall back to.
        let fallback_only = azure.applications.values().any(|application| is_dps(&application.dps));
        let has_dps = is_dps(&azure.dps);
        let global = match route("azure", &azure.iot_hub, &azure.dps, has_dps, &Dps::default()) {
            Ok(target) => target,
            Err(InvalidRoute::DpsIncomplete(..)) if fallback_only => None,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let mut applications = HashMap::new();
        for (id, application) in &azure.applications {
            let key = format!("azure.applications.{id}");
            let elsewhere = has_dps && application.dps.endpoint.is_some();
            let own_dps = is_dps(&application.dps) || elsewhere;
            let target = match route(&key, &application.iot_hub, &application.dps, own_dps, &azure.dps) {
                Ok(own) => own.or_else(|| global.clone()),
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            if target.is_none() && problems.is_empty() {
                problems.push(InvalidRoute::Neither(key));
            }
            let model_id = application.model_id.as_ref().or(azure.model_id.as_ref());
            applications.insert(id.clone(), target.map(|target| Route::new(target, model_id)));
        }
        let global = global.map(|target| Route::new(target, azure.model_id.as_ref()));
        if problems.is_empty() {
            Ok(Self { global, applications, amqp_port: azure.amqp_port })
        } else {
            Err(problems)
        }
    }

    /// The route of an application; `None` if nothing is configured for it.
    pub fn of(&self, application_id: &str) -> Option<&Route> {
        self.applications.get(application_id).map_or(self.global.as_ref(), Option::as_ref)
    }

    /// Every hub and DPS that is configured, as often as it is named.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let applications = self.applications.values().flatten();
        self.global.iter().chain(applications).map(|route| &route.target)
    }

    /// AMQP port of a hub whose name carries none.
    pub fn amqp_port(&self) -> u16 {
        self.amqp_port
    }
}

impl Route {
    fn new(target: Target, model_id: Option<&String>) -> Self {
        Self { target, model_id: model_id.map(|id| id.as_str().into()) }
    }
}

/// One level's own target; `None` if it names none.
fn route(
    key: &str,
    iot_hub: &IotHub,
    dps: &Dps,
    has_dps: bool,
    fallback: &Dps,
) -> Result<Option<Target>, InvalidRoute> {
    match (&iot_hub.connection_string, has_dps) {
        (Some(_), true) => Err(InvalidRoute::Both(key.to_owned())),
        (Some(text), false) => ConnectionString::parse(text.reveal())
            .map(|read| Some(Target::Hub(Arc::new(read))))
            .map_err(|error| InvalidRoute::ConnectionString(key.to_owned(), error)),
        (None, true) => scope(key, dps, fallback).map(|scope| Some(Target::Dps(Arc::new(scope)))),
        (None, false) => Ok(None),
    }
}

/// An endpoint alone is no DPS: it says only where one would be.
fn is_dps(dps: &Dps) -> bool {
    dps.id_scope.is_some() || dps.group_enrollment_key.is_some()
}

fn scope(key: &str, dps: &Dps, fallback: &Dps) -> Result<DpsScope, InvalidRoute> {
    let missing = |part| move || InvalidRoute::DpsIncomplete(key.to_owned(), part);
    let id_scope =
        dps.id_scope.as_deref().or(fallback.id_scope.as_deref()).ok_or_else(missing("id_scope"))?;
    if id_scope.is_empty()
        || id_scope.len() > 64
        || !id_scope.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    {
        return Err(InvalidRoute::IdScope(key.to_owned()));
    }
    let group_key = dps
        .group_enrollment_key
        .as_ref()
        .or(fallback.group_enrollment_key.as_ref())
        .ok_or_else(missing("group_enrollment_key"))?;
    let endpoint = dps.endpoint.as_deref().or(fallback.endpoint.as_deref()).unwrap_or(GLOBAL_ENDPOINT);
    Ok(DpsScope {
        endpoint: Endpoint::parse(endpoint).map_err(|error| InvalidRoute::Endpoint(key.to_owned(), error))?,
        id_scope: id_scope.into(),
        group_key: SigningKey::from_base64(group_key.reveal())
            .ok_or_else(|| InvalidRoute::GroupKey(key.to_owned()))?,
    })
}
