//! Accelerators on the PCI bus, by sysfs: what is there even if no vendor's software is.
//!
//! Invariant: a device is listed only with a class of accelerators or graphics, since the same
//! vendors make network cards. What it does not do: telemetry.

use super::{Places, Vendor};

/// An accelerator on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciDevice {
    /// `domain:bus:device.function`.
    pub address: String,
    /// Who makes it.
    pub vendor: Vendor,
    /// The vendor's number for the device.
    pub device: u16,
    /// What that number is known to be.
    pub name: Option<&'static str>,
}

/// Numbers that the vendor's sources name.
const NAMES: [(u16, &str); 3] = [
    (0xd802, "Ascend 910B"),
    (0xd803, "Ascend 910_93 (A3, 910C)"),
    (0xd806, "Ascend 950"),
];

/// The accelerators of the host, by address.
pub(super) fn scan(places: &Places) -> Vec<PciDevice> {
    let Ok(entries) = std::fs::read_dir(places.file("sys/bus/pci/devices")) else {
        return Vec::new();
    };
    let mut found: Vec<PciDevice> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = |file: &str| {
                let text = std::fs::read_to_string(path.join(file)).ok()?;
                u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
            };
            let class = number("class")? >> 16;
            // Display and 3D controllers; processing accelerators.
            if class != 0x03 && class != 0x12 {
                return None;
            }
            let vendor = match number("vendor")? {
                0x10de => Vendor::Nvidia,
                0x19e5 => Vendor::Ascend,
                0xcabc => Vendor::Cambricon,
                _ => return None,
            };
            let device = u16::try_from(number("device")?).ok()?;
            let known = NAMES.iter().find(|(number, _)| *number == device);
            Some(PciDevice {
                address: path.file_name()?.to_string_lossy().into_owned(),
                vendor,
                device,
                name: known
                    .filter(|_| vendor == Vendor::Ascend)
                    .map(|(_, name)| *name),
            })
        })
        .collect();
    found.sort_by(|one, other| one.address.cmp(&other.address));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerators_are_told_from_network_cards() {
        let root = tempfile::tempdir().expect("a folder");
        for (address, vendor, device, class) in [
            ("0000:c1:00.0", "0x19e5", "0xd802", "0x120000"),
            ("0000:02:00.0", "0x19e5", "0x1822", "0x020000"),
            ("0000:17:00.0", "0x10de", "0x2329", "0x030200"),
            ("0000:18:00.0", "0xcabc", "0x0590", "0x120000"),
            ("0000:19:00.0", "0x8086", "0x0bd5", "0x038000"),
            ("0000:20:00.0", "0x19e5", "garbage", "0x120000"),
        ] {
            let folder = root.path().join("sys/bus/pci/devices").join(address);
            std::fs::create_dir_all(&folder).expect("writable");
            for (file, text) in [("vendor", vendor), ("device", device), ("class", class)] {
                std::fs::write(folder.join(file), format!("{text}\n")).expect("writable");
            }
        }
        let path = root.path().as_os_str().to_owned();
        let found = scan(&Places::of(
            [("WEIGHBRIDGE_SYSROOT".to_owned(), path)].into(),
        ));
        let short: Vec<_> = found
            .iter()
            .map(|device| (device.address.as_str(), device.vendor, device.name))
            .collect();
        assert_eq!(
            short,
            [
                ("0000:17:00.0", Vendor::Nvidia, None),
                ("0000:18:00.0", Vendor::Cambricon, None),
                ("0000:c1:00.0", Vendor::Ascend, Some("Ascend 910B")),
            ]
        );
        assert!(
            scan(&Places::of(
                [("WEIGHBRIDGE_SYSROOT".to_owned(), "/no/such".into())].into()
            ))
            .is_empty()
        );
    }
}
