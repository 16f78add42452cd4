//! From the cloud to the device: how requests are read, pushed, remembered and reported.

mod dispatcher;
mod roster;
mod translate;
