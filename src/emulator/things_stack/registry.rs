//! The devices of an emulated Things Stack: which there are, and how much they may hold together.
//!
//! Knows no webhook and no HTTP.

use std::collections::BTreeMap;

use super::device::{Device, over_capacity};
use super::name::DeviceName;
use super::refusal::{AS, Code, EMULATOR, Refusal};
use super::session::Session;
use super::up::{Stamps, Up};

/// Devices at most.
const MAX_DEVICES: usize = 100_000;
/// Bytes of all queues together, roughly.
const MAX_QUEUED_BYTES: usize = 256 * 1024 * 1024;

/// All devices.
#[derive(Debug)]
pub(super) struct Registry {
    /// Whether any valid id is a device.
    open: bool,
    devices: BTreeMap<DeviceName, Device>,
    queued_bytes: usize,
}

impl Registry {
    pub(super) fn new(open: bool, devices: Vec<Device>) -> Self {
        let queued_bytes = devices.iter().map(Device::weight).sum();
        let devices = devices.into_iter().map(|device| (device.name.clone(), device)).collect();
        Self { open, devices, queued_bytes }
    }

    /// Whether any valid id is a device.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// A device that exists.
    pub(super) fn get(&self, name: &DeviceName) -> Option<&Device> {
        self.devices.get(name)
    }

    /// All of them, in the order of their names.
    pub(super) fn all(&self) -> Vec<Device> {
        self.devices.values().cloned().collect()
    }

    /// Adds a device that never joined, if it is not there.
    pub(super) fn create(&mut self, name: &DeviceName) -> Result<(), Refusal> {
        if !self.devices.contains_key(name) {
            self.insert(Device::new(name.clone()))?;
        }
        Ok(())
    }

    /// Reads a device. In an open registry one that was never used is new, but not kept.
    pub(super) fn read<T>(
        &self,
        name: &DeviceName,
        stamps: &Stamps,
        read: impl FnOnce(&Device) -> T,
    ) -> Result<T, Refusal> {
        match self.devices.get(name) {
            Some(device) => Ok(read(device)),
            None if self.open => Ok(read(&fresh(name, stamps))),
            None => Err(not_found(name)),
        }
    }

    /// Changes a device, which an open registry makes at its first use. Gives it back with what the webhook must hear.
    pub(super) fn change(
        &mut self,
        name: &DeviceName,
        stamps: &Stamps,
        change: impl FnOnce(&mut Device) -> Result<Vec<Up>, Refusal>,
    ) -> Result<(&Device, Vec<Up>), Refusal> {
        if self.open && !self.devices.contains_key(name) {
            self.insert(fresh(name, stamps))?;
        }
        let Some(device) = self.devices.get_mut(name) else { return Err(not_found(name)) };
        let before = device.weight();
        let ups = change(device)?;
        self.queued_bytes = (self.queued_bytes + device.weight()).saturating_sub(before);
        Ok((device, ups))
    }

    /// Refuses when the queues together hold too much.
    pub(super) fn check_room(&self) -> Result<(), Refusal> {
        if self.queued_bytes > MAX_QUEUED_BYTES { Err(over_capacity()) } else { Ok(()) }
    }

    fn insert(&mut self, device: Device) -> Result<(), Refusal> {
        if self.devices.len() >= MAX_DEVICES {
            let message = "the emulator keeps 100000 devices at most";
            return Err(Refusal::new(Code::ResourceExhausted, (EMULATOR, "too_many_devices"), message));
        }
        self.devices.insert(device.name.clone(), device);
        Ok(())
    }
}

/// A device as an open registry has it: with a session.
fn fresh(name: &DeviceName, stamps: &Stamps) -> Device {
    let mut device = Device::new(name.clone());
    device.session = Some(Session::new(stamps.next()));
    device
}

fn not_found(name: &DeviceName) -> Refusal {
    let message = "there is no device `{device_uid}`";
    Refusal::new(Code::NotFound, (AS, "device_not_found"), message).with("device_uid", name.to_string())
}
