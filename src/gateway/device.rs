//! What the engines compute on, as the configuration asks and the machine allows.

use crate::config::DeviceChoice;
use crate::model::{Device, TensorError};

/// The device that a choice comes to here. `Auto` never fails: the log says why it came to the processor.
pub fn choose(choice: DeviceChoice) -> Result<Device, TensorError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::CPU),
        DeviceChoice::Cuda(ordinal) => Device::cuda(ordinal),
        DeviceChoice::Auto => Ok(first_usable().unwrap_or_else(|why| {
            tracing::info!(%why, "computing on the processor");
            Device::CPU
        })),
    }
}

/// The first GPU that the kernels run on, or why there is none.
fn first_usable() -> Result<Device, String> {
    let gpus = Device::gpus().map_err(|error| error.to_string())?;
    let mut whys = Vec::new();
    for gpu in &gpus {
        match Device::of(gpu) {
            Ok(device) => return Ok(device),
            Err(error) => whys.push(error.to_string()),
        }
    }
    if whys.is_empty() { Err("CUDA sees no GPU".to_owned()) } else { Err(whys.join("; ")) }
}
