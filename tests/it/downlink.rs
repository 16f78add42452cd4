//! From the cloud to the device: what the hub sends becomes downlinks, and their fate is reported.

mod desired;
mod dispatcher;
mod ledger;
mod methods;
mod roster;
mod stage;
mod translate;
