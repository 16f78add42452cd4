//! From the cloud to the device: how requests are read, pushed, remembered and reported.

mod desired;
mod methods;
mod stage;
mod translate;
