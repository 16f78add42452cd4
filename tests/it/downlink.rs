//! From the cloud to the device: what the hub sends becomes downlinks, and their fate is reported.

mod dispatcher;
mod ledger;
mod roster;
mod translate;
