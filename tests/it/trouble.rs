//! Devices in trouble, alone: stolen, deleted, disabled, poisoned, silent, moved with their hub.

mod moved;
mod parts;
mod stolen;
