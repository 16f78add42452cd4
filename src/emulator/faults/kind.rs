//! What can go wrong at an emulated hub, under the names of Microsoft's SDK tests and some of our own. Pure words.

use std::fmt;
use std::str::FromStr;

/// What goes wrong. The first fifteen are those that Microsoft's device SDKs ask a real hub for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The device's TCP connection is cut, without a word.
    KillTcp,
    /// The device's connection is closed with `amqp:connection:forced`.
    KillAmqpConnection,
    /// The sessions with links of the device are ended with `amqp:internal-error`.
    KillAmqpSession,
    /// The connection's link for requests to `$cbs` is detached.
    KillAmqpCbsLinkReq,
    /// The connection's link for replies of `$cbs` is detached.
    KillAmqpCbsLinkResp,
    /// The device's telemetry link is detached with `amqp:link:detach-forced`, as are those below.
    KillAmqpD2cLink,
    /// The link of its cloud-to-device messages.
    KillAmqpC2dLink,
    /// Its link for requests about the twin.
    KillAmqpTwinLinkReq,
    /// Its link for replies and updates of the twin.
    KillAmqpTwinLinkResp,
    /// Its link on which calls of direct methods come.
    KillAmqpMethodReqLink,
    /// Its link on which it answers them.
    KillAmqpMethodRespLink,
    /// Telemetry is rejected with `com.microsoft:device-container-throttled`, twin requests get 429.
    InvokeThrottling,
    /// Telemetry is rejected with `amqp:resource-limit-exceeded`, twin requests get 403.
    InvokeMaxMessageQuota,
    /// The device's links are detached with `amqp:unauthorized-access`, its tokens get 401.
    InvokeAuthError,
    /// The device's connection is closed in good manners, without an error.
    ShutDownAmqp,
    /// The hub neither reads nor answers on the connection; TCP stays.
    Silence,
    /// The hub reads a few bytes at a time from the connection.
    SlowReads,
    /// Another client takes the device's links: `amqp:link:stolen`.
    StealLinks,
    /// The device's tokens expire now.
    ExpireTokens,
    /// The whole hub is down: all connections are cut, new ones refused.
    HubDown,
    /// The device is no longer registered here, and DPS gives it to another hub if there is one.
    HubMoved,
}

/// How far a fault reaches beyond the device it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Reach {
    /// This device's links or messages.
    Device,
    /// The connection that the device is on.
    Connection,
    /// Every connection.
    Hub,
}

impl FaultKind {
    /// All of them; those of [`Self::OF_SDKS`] first.
    pub const ALL: [Self; 21] = [
        Self::KillTcp,
        Self::KillAmqpConnection,
        Self::KillAmqpSession,
        Self::KillAmqpCbsLinkReq,
        Self::KillAmqpCbsLinkResp,
        Self::KillAmqpD2cLink,
        Self::KillAmqpC2dLink,
        Self::KillAmqpTwinLinkReq,
        Self::KillAmqpTwinLinkResp,
        Self::KillAmqpMethodReqLink,
        Self::KillAmqpMethodRespLink,
        Self::InvokeThrottling,
        Self::InvokeMaxMessageQuota,
        Self::InvokeAuthError,
        Self::ShutDownAmqp,
        Self::Silence,
        Self::SlowReads,
        Self::StealLinks,
        Self::ExpireTokens,
        Self::HubDown,
        Self::HubMoved,
    ];

    /// Those that a device may ask for by a message.
    pub const OF_SDKS: [Self; 15] = match Self::ALL.first_chunk() {
        Some(first) => *first,
        None => panic!("there are more"),
    };

    /// The name in message properties and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KillTcp => "KillTcp",
            Self::KillAmqpConnection => "KillAmqpConnection",
            Self::KillAmqpSession => "KillAmqpSession",
            Self::KillAmqpCbsLinkReq => "KillAmqpCBSLinkReq",
            Self::KillAmqpCbsLinkResp => "KillAmqpCBSLinkResp",
            Self::KillAmqpD2cLink => "KillAmqpD2CLink",
            Self::KillAmqpC2dLink => "KillAmqpC2DLink",
            Self::KillAmqpTwinLinkReq => "KillAmqpTwinLinkReq",
            Self::KillAmqpTwinLinkResp => "KillAmqpTwinLinkResp",
            Self::KillAmqpMethodReqLink => "KillAmqpMethodReqLink",
            Self::KillAmqpMethodRespLink => "KillAmqpMethodRespLink",
            Self::InvokeThrottling => "InvokeThrottling",
            Self::InvokeMaxMessageQuota => "InvokeMaxMessageQuota",
            Self::InvokeAuthError => "InvokeAuthError",
            Self::ShutDownAmqp => "ShutDownAmqp",
            Self::Silence => "Silence",
            Self::SlowReads => "SlowReads",
            Self::StealLinks => "StealLinks",
            Self::ExpireTokens => "ExpireTokens",
            Self::HubDown => "HubDown",
            Self::HubMoved => "HubMoved",
        }
    }

    /// How far it reaches.
    pub(in super::super) const fn reach(self) -> Reach {
        match self {
            Self::KillAmqpSession
            | Self::KillAmqpD2cLink
            | Self::KillAmqpC2dLink
            | Self::KillAmqpTwinLinkReq
            | Self::KillAmqpTwinLinkResp
            | Self::KillAmqpMethodReqLink
            | Self::KillAmqpMethodRespLink
            | Self::InvokeThrottling
            | Self::InvokeMaxMessageQuota
            | Self::InvokeAuthError
            | Self::StealLinks
            | Self::ExpireTokens
            | Self::HubMoved => Reach::Device,
            Self::KillTcp
            | Self::KillAmqpConnection
            | Self::ShutDownAmqp
            | Self::KillAmqpCbsLinkReq
            | Self::KillAmqpCbsLinkResp
            | Self::Silence
            | Self::SlowReads => Reach::Connection,
            Self::HubDown => Reach::Hub,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// There is no fault of this name.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("no such fault; docs/EMULATOR.md lists them")]
pub struct UnknownFault;

impl FromStr for FaultKind {
    type Err = UnknownFault;

    /// Upper and lower case are alike: SDKs differ in it.
    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        Self::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(name)).ok_or(UnknownFault)
    }
}

#[cfg(test)]
mod tests {
    use super::FaultKind;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in FaultKind::ALL {
            assert_eq!(kind.as_str().to_lowercase().parse(), Ok(kind));
        }
        assert!("ShutDownMqtt".parse::<FaultKind>().is_err());
        assert_eq!(FaultKind::OF_SDKS[..], FaultKind::ALL[..15]);
    }
}
