//! What the caller chooses about a run. Knows nothing of what runs.

use std::time::Duration;

const HELP: &str = "\
Usage: tests/chaos/run [--seconds N] [--seed N] [--uplinks N] [--messages N] [--devices N] [--hubs N] [--plan] [--keep]

  --seconds N   how long faults are mixed, 60 at least (180); the quiet drain comes on top
  --seed N      which faults, when, and whom they hit (random)
  --uplinks N   uplinks a second (200)
  --messages N  cloud-to-device messages a second (20)
  --devices N   end devices (200)
  --hubs N      hubs, 1 to 8 (3)
  --plan        only print what would come when
  --keep        keep the folder with the spool and the connector's log, also when all is well

TTI_CHAOS_BINARY names another connector than the one that was built along, TTI_CHAOS_LOG its log level.";

/// Of this many devices, one ails.
const AILING_ONE_IN: usize = 5;
/// Shorter runs have no room for both phases.
const SHORTEST_S: u64 = 60;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Args {
    pub(crate) lasting: Duration,
    pub(crate) seed: u64,
    pub(crate) uplinks_per_s: u32,
    pub(crate) messages_per_s: u32,
    pub(crate) devices: usize,
    pub(crate) hubs: usize,
    pub(crate) plan: bool,
    pub(crate) keep: bool,
}

impl Args {
    /// Devices that may be deleted, disabled or get other keys: the last ones.
    pub(crate) fn ailing(&self) -> usize {
        (self.devices / AILING_ONE_IN).max(1)
    }

    /// # Errors
    /// A text for the caller: what is wrong, or the help asked for.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            lasting: Duration::from_secs(180),
            seed: fastrand::u64(..),
            uplinks_per_s: 200,
            messages_per_s: 20,
            devices: 200,
            hubs: 3,
            plan: false,
            keep: false,
        };
        while let Some(word) = words.next() {
            if word == "--keep" || word == "--plan" {
                args.keep |= word == "--keep";
                args.plan |= word == "--plan";
                continue;
            }
            // Cargo hands a filter over to every test target.
            if !word.starts_with("--") {
                continue;
            }
            if !["--seconds", "--seed", "--uplinks", "--messages", "--devices", "--hubs"].contains(&&*word) {
                return Err(HELP.to_owned());
            }
            let number = words.next().and_then(|text| text.parse::<u64>().ok());
            let number = number.ok_or_else(|| format!("{word} needs a number\n\n{HELP}"))?;
            let small = |number: u64| u32::try_from(number.clamp(1, 100_000)).unwrap_or(u32::MAX);
            match &*word {
                "--seconds" => args.lasting = Duration::from_secs(number.max(SHORTEST_S)),
                "--seed" => args.seed = number,
                "--uplinks" => args.uplinks_per_s = small(number),
                "--messages" => args.messages_per_s = small(number),
                "--devices" => args.devices = small(number.clamp(10, 10_000)) as usize,
                _hubs => args.hubs = small(number.clamp(1, 8)) as usize,
            }
        }
        Ok(args)
    }
}
