//! The probes against fake libraries and fake commands.

use std::path::Path;

use backends::Clock;
use backends::clock::Nanos;
use backends::probe::{
    Kind, OpenError, Places, Probe, Quantity, Readings, Sampler, Scope, Selection, Value, Wanted,
    discover, open,
};

use crate::fakes::Fake;

const MIB: f64 = 1_048_576.0;

fn variable(kind: Kind) -> &'static str {
    match kind {
        Kind::Nvml => "WEIGHBRIDGE_NVML_LIB",
        Kind::Dcmi => "WEIGHBRIDGE_DCMI_LIB",
        _ => "WEIGHBRIDGE_CNDEV_LIB",
    }
}

fn places(kind: Kind, fake: &Fake) -> Places {
    Places::of(fake.environment(variable(kind)))
}

fn opened(kind: Kind, fake: &Fake) -> Box<dyn Probe> {
    open(kind, &Selection::All, &places(kind, fake)).expect("the fake works")
}

fn refused(kind: Kind, fake: &Fake, selection: &Selection) -> OpenError {
    let result = open(kind, selection, &places(kind, fake));
    result.err().expect("it cannot be opened")
}

/// One device in a few words.
fn short(probe: &mut dyn Probe) -> Vec<String> {
    let samples = probe.sample(Wanted::Everything).expect("it answers");
    let units = probe.units().iter().zip(&samples);
    units
        .map(|(unit, sample)| {
            let show = |what, scale: f64| {
                let value = sample.readings.get(what);
                value.map_or("none".to_owned(), |value| format!("{}", value / scale))
            };
            format!(
                "{} {} {} at {:?}: {} W, {} %, {} C, {} MHz, {}/{} MiB",
                unit.index,
                unit.name,
                unit.scope.name(),
                unit.power_at,
                show(Quantity::Power, 1.0),
                show(Quantity::Utilisation, 1.0),
                show(Quantity::Temperature, 1.0),
                show(Quantity::Clock, 1.0),
                show(Quantity::MemoryUsed, MIB),
                show(Quantity::MemoryTotal, MIB),
            )
        })
        .collect()
}

fn reason(readings: &Readings, what: Quantity) -> String {
    match readings.value(what) {
        Some(Value::Unavailable(why)) => why.clone(),
        other => panic!("{what:?} is {other:?}"),
    }
}

#[test]
fn ascend_cards_of_every_kind_are_counted_once() {
    for (configuration, expected) in [
        (
            "cards=0 2 5\nconstant_w=95\n",
            vec![
                "0 910B3 chip at None: 95 W, 37 %, 32 C, 1800 MHz, 3430/65536 MiB",
                "1 910B3 chip at None: 95 W, 37 %, 32 C, 1800 MHz, 3430/65536 MiB",
                "2 910B3 chip at None: 95 W, 37 %, 32 C, 1800 MHz, 3430/65536 MiB",
            ],
        ),
        (
            "cards=3\npart=310p\nconstant_w=41\n",
            vec![
                "0 310P3 card at None: 41 W, 37 %, 32 C, 1800 MHz, 587/44280 MiB",
                "1 310P3 card at Some(0): none W, 37 %, 32 C, 1800 MHz, 587/44280 MiB",
            ],
        ),
        (
            "cards=0 1\npart=a3\nconstant_w=165\n",
            vec![
                "0 Ascend910 card at None: 165 W, 37 %, 32 C, 1800 MHz, 3430/65536 MiB",
                "1 Ascend910 card at Some(0): none W, 37 %, 32 C, 1800 MHz, 3430/65536 MiB",
                "2 Ascend910 card at None: 165 W, 37 %, 32 C, 1800 MHz, 3430/65536 MiB",
                "3 Ascend910 card at Some(2): none W, 37 %, 32 C, 1800 MHz, 3430/65536 MiB",
            ],
        ),
        (
            "cards=0\nconstant_w=95\nutil=255\nhbm_kb=1\n",
            vec!["0 910B3 chip at None: 95 W, none %, 32 C, 1800 MHz, 3430/65536 MiB"],
        ),
        (
            "cards=0 1\nold=-8255\nconstant_w=310\n",
            vec![
                "0 Ascend 950 series chip at None: 310 W, 12 %, 41 C, none MHz, 4096/131072 MiB",
                "1 Ascend 950 series chip at None: 310 W, 12 %, 41 C, none MHz, 4096/131072 MiB",
            ],
        ),
    ] {
        let Some(fake) = Fake::build("dcmi", configuration) else {
            return;
        };
        let mut probe = opened(Kind::Dcmi, &fake);
        assert_eq!(short(probe.as_mut()), expected, "{configuration}");
    }
}

#[test]
fn an_ascend_chip_says_what_it_is_and_where_values_are_from() {
    let Some(fake) = Fake::build("dcmi", "cards=5\nutil=255\n") else {
        return;
    };
    let mut probe = opened(Kind::Dcmi, &fake);
    let unit = &probe.units()[0];
    assert_eq!(unit.id.as_deref(), Some("0000:c1:00.0"));
    for fact in [
        ("soc", "Ascend910B3"),
        ("driver", "25.5.1"),
        ("dcmi", "1.0.0"),
        ("card", "5"),
    ] {
        let fact = (fact.0, fact.1.to_owned());
        assert!(unit.facts.contains(&fact), "{:?}", unit.facts);
    }
    let sample = probe
        .sample(Wanted::Everything)
        .expect("it answers")
        .remove(0);
    let Some(Value::Read { source, value }) = sample.readings.value(Quantity::Power) else {
        panic!("there is power");
    };
    assert_eq!(source, "dcmi_get_device_power_info");
    assert!((200.0..=400.1).contains(value), "{value}");
    let why = reason(&sample.readings, Quantity::Utilisation);
    assert_eq!(why, "dcmi_get_device_utilization_rate gave 255");
    assert!(reason(&sample.readings, Quantity::Energy).contains("no energy counter"));
}

#[test]
fn a_package_s_power_is_that_of_the_die_that_gives_it() {
    // The first die of each package gives the power, the second has none.
    let Some(fake) = Fake::build("dcmi", "cards=0 1\npart=a3\nsilent=1\nconstant_w=165\n") else {
        return;
    };
    let mut probe = opened(Kind::Dcmi, &fake);
    let samples = probe.sample(Wanted::Power).expect("it answers");
    let power: Vec<Option<f64>> = samples
        .iter()
        .map(|sample| sample.readings.get(Quantity::Power))
        .collect();
    assert_eq!(power, [Some(165.0), None, Some(165.0), None]);
    assert_eq!(
        reason(&samples[3].readings, Quantity::Power),
        "shared with device 2, and counted there"
    );
}

#[test]
fn one_die_alone_has_its_package_s_power() {
    let Some(fake) = Fake::build("dcmi", "cards=0\npart=a3\nconstant_w=165\n") else {
        return;
    };
    let places = places(Kind::Dcmi, &fake);
    let wanted = Selection::Indexes(vec![1]);
    let mut probe = open(Kind::Dcmi, &wanted, &places).expect("it is there");
    assert_eq!(
        (probe.units()[0].scope, probe.units()[0].power_at),
        (Scope::Card, None)
    );
    let samples = probe.sample(Wanted::Power).expect("it answers");
    assert_eq!(samples[0].readings.get(Quantity::Power), Some(165.0));
}

#[test]
fn faults_of_a_library_are_told_by_name_and_number() {
    for (name, kind, configuration, part) in [
        (
            "dcmi",
            Kind::Dcmi,
            "ret=-8005\n",
            "dcmi_init: -8005 (inner error)",
        ),
        (
            "dcmi",
            Kind::Dcmi,
            "ret:dcmi_get_card_list=-8002\n",
            "-8002 (no permission)",
        ),
        ("dcmi", Kind::Dcmi, "cards=x\n", "no device"),
        (
            "cndev_gen1",
            Kind::Cndev,
            "ret=1\n",
            "cndevInit: 1 (no driver)",
        ),
        ("cndev_gen3", Kind::Cndev, "count=0\n", "no device"),
        (
            "cndev_gen2",
            Kind::Cndev,
            "version=99\n",
            "cndevGetDeviceCount: 3 (version",
        ),
        ("nvml", Kind::Nvml, "ret=9\n", "driver"),
    ] {
        let Some(fake) = Fake::build(name, configuration) else {
            return;
        };
        let error = refused(kind, &fake, &Selection::All).to_string();
        assert!(error.contains(part), "{name}, {configuration}: {error}");
    }
    let Some(fake) = Fake::build("dcmi", "cards=0 2\n") else {
        return;
    };
    let error = refused(Kind::Dcmi, &fake, &Selection::Indexes(vec![7])).to_string();
    assert!(error.contains("no device 7; accepted are 0, 1"), "{error}");
}

#[test]
fn a_missing_function_only_lacks_its_values() {
    let without = ["dcmi_get_device_temperature", "dcmi_get_device_logic_id"];
    let Some(fake) = Fake::build_without("dcmi", "cards=0\nconstant_w=90\n", &without) else {
        return;
    };
    let mut probe = opened(Kind::Dcmi, &fake);
    let expected = ["0 910B3 chip at None: 90 W, 37 %, none C, 1800 MHz, 3430/65536 MiB"];
    assert_eq!(short(probe.as_mut()), expected);
    let without = ["dcmi_get_device_type"];
    let Some(fake) = Fake::build_without("dcmi", "cards=0\nmcu=0\n", &without) else {
        return;
    };
    assert_eq!(opened(Kind::Dcmi, &fake).units().len(), 1);
    let Some(fake) = Fake::build_without("dcmi", "", &["dcmi_init", "dcmiv2_init"]) else {
        return;
    };
    let error = refused(Kind::Dcmi, &fake, &Selection::All).to_string();
    assert!(
        error.contains("dcmi_init: the library has no such function"),
        "{error}"
    );
}

#[test]
fn a_library_that_writes_too_much_is_found_out() {
    const PLAIN: &str = "cards=0\n";
    const DUO: &str = "cards=0\npart=310p\n";
    const OLDER: &str = "cards=0\nhbm_kb=1\n";
    const NEXT: &str = "cards=0\nold=-8255\n";
    for (configuration, function, what) in [
        (PLAIN, "dcmi_get_device_power_info", Quantity::Power),
        (PLAIN, "dcmi_get_device_health", Quantity::Health),
        (PLAIN, "dcmi_get_device_frequency", Quantity::Clock),
        (PLAIN, "dcmi_get_device_temperature", Quantity::Temperature),
        (
            PLAIN,
            "dcmi_get_device_utilization_rate",
            Quantity::Utilisation,
        ),
        (PLAIN, "dcmi_get_device_hbm_info", Quantity::MemoryUsed),
        (OLDER, "dcmi_get_hbm_info", Quantity::MemoryUsed),
        (DUO, "dcmi_get_device_memory_info_v3", Quantity::MemoryUsed),
        (DUO, "dcmi_mcu_get_power_info", Quantity::Power),
        (NEXT, "dcmiv2_get_device_power_info", Quantity::Power),
        (NEXT, "dcmiv2_get_device_temperature", Quantity::Temperature),
        (
            NEXT,
            "dcmiv2_get_device_utilization_rate",
            Quantity::Utilisation,
        ),
        (NEXT, "dcmiv2_get_device_hbm_info", Quantity::MemoryUsed),
    ] {
        let whole = Fake::build("dcmi", configuration);
        let Some(whole) = whole else { return };
        let read = opened(Kind::Dcmi, &whole)
            .sample(Wanted::Everything)
            .expect("it answers");
        assert!(read[0].readings.get(what).is_some(), "{function} is asked");
        let fake = Fake::build("dcmi", &format!("{configuration}overrun={function}\n"));
        let mut probe = opened(Kind::Dcmi, &fake.expect("there is a compiler"));
        let samples = probe.sample(Wanted::Everything).expect("it answers");
        let readings = &samples[0].readings;
        assert_eq!(readings.get(what), None, "{function}");
        let by_it =
            |value: &Value| matches!(value, Value::Read { source, .. } if source == function);
        assert!(
            !readings.iter().any(|(_, value)| by_it(value)),
            "{function}"
        );
    }
}

#[test]
fn what_only_names_numbers_or_counts_may_be_missing() {
    if Fake::build("dcmi", "").is_none() {
        return;
    }
    for (function, expected) in [
        ("dcmi_get_device_chip_info_v2", "0 Ascend NPU chip at None"),
        ("dcmi_get_device_pcie_info_v2", "0 910B3 chip at None"),
        ("dcmi_get_device_logic_id", "0 910B3 chip at None"),
        ("dcmi_get_device_num_in_card", "0 910B3 chip at None"),
        ("dcmi_get_device_type", "0 910B3 chip at None"),
    ] {
        let fake = Fake::build("dcmi", &format!("cards=0\nmcu=0\noverrun={function}\n"));
        let mut probe = opened(Kind::Dcmi, &fake.expect("there is a compiler"));
        let found = short(probe.as_mut());
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{function}: {found:?}"
        );
    }
}

#[test]
fn a_library_that_writes_too_much_is_told_by_function() {
    let power = "cards=0\noverrun=dcmi_get_device_power_info\n";
    let Some(fake) = Fake::build("dcmi", power) else {
        return;
    };
    let mut probe = opened(Kind::Dcmi, &fake);
    let samples = probe.sample(Wanted::Power).expect("it answers");
    let why = reason(&samples[0].readings, Quantity::Power);
    assert!(why.contains("wrote more than its structure has"), "{why}");
    // Newer libraries of Cambricon's write longer structures, but not longer than there is room.
    for (by, is_read) in [(1000, true), (4096, false)] {
        let overrun = format!("overrun=cndevGetDevicePowerInfo\noverrun_by={by}\n");
        let fake = Fake::build("cndev_gen3", &overrun).expect("there is a compiler");
        let samples = opened(Kind::Cndev, &fake)
            .sample(Wanted::Power)
            .expect("it answers");
        let readings = &samples[0].readings;
        assert_eq!(
            readings.get(Quantity::Power).is_some(),
            is_read,
            "{by} bytes too many"
        );
        if !is_read {
            let why = reason(readings, Quantity::Power);
            assert!(why.contains("wrote more than 4 KiB"), "{why}");
        }
    }
}

#[test]
fn all_generations_of_cambricon_s_library_are_read() {
    for (name, generation, expected) in [
        (
            "cndev_gen1",
            "1",
            "0 MLU370-X8 chip at None: 95 W, 66 %, 64 C, 1300 MHz, 1024/24576 MiB",
        ),
        (
            "cndev_gen2",
            "2",
            "0 MLU370-X8 chip at None: 95 W, 66 %, 64 C, 1300 MHz, 2048/24576 MiB",
        ),
        (
            "cndev_gen3",
            "3",
            "0 MLU590-M9 chip at None: 95 W, 66 %, 64 C, 1300 MHz, 12345/98304 MiB",
        ),
    ] {
        // The stamp that is accepted is found, wherever it is.
        for version in ["", "version=1\n", "version=4\n"] {
            let configuration = format!("constant_w=95\ncount=1\n{version}");
            let Some(fake) = Fake::build(name, &configuration) else {
                return;
            };
            let mut probe = opened(Kind::Cndev, &fake);
            assert_eq!(short(probe.as_mut()), [expected], "{name} {version}");
            let unit = &probe.units()[0];
            assert!(unit.facts[0].1.ends_with(generation), "{:?}", unit.facts);
            let id = unit.id.as_deref().expect("it has a UUID");
            assert!(id.starts_with("41fd5e1a-1111") && id.len() == 36, "{id}");
            let sample = probe.sample(Wanted::Power).expect("it answers").remove(0);
            let energy = sample.readings.get(Quantity::Energy);
            assert_eq!(energy.is_some(), generation == "3", "{energy:?}");
        }
    }
    let Some(fake) = Fake::build("cndev_gen3", "no_energy=1\n") else {
        return;
    };
    let samples = opened(Kind::Cndev, &fake)
        .sample(Wanted::Power)
        .expect("it answers");
    let why = reason(&samples[1].readings, Quantity::Energy);
    assert!(why.contains("10 (not supported)"), "{why}");
}

#[test]
fn nvidia_s_library_is_read() {
    let Some(fake) = Fake::build("nvml", "constant_w=115\nthrottle=4\n") else {
        return;
    };
    let mut probe = opened(Kind::Nvml, &fake);
    assert_eq!(
        short(probe.as_mut()),
        [
            "0 NVIDIA H20 chip at None: 115 W, 37 %, 31 C, 1980 MHz, 1024/97871 MiB",
            "1 NVIDIA H20 chip at None: 115 W, 37 %, 31 C, 1980 MHz, 1024/97871 MiB",
        ]
    );
    assert_eq!(probe.units()[1].id.as_deref(), Some("GPU-1"));
    let samples = probe.sample(Wanted::Everything).expect("it answers");
    assert_eq!(samples[0].readings.get(Quantity::Throttled), Some(1.0));
    assert!(samples[0].readings.get(Quantity::Energy).is_some());
    let Some(fake) = Fake::build("nvml", "no_energy=1\n") else {
        return;
    };
    let samples = opened(Kind::Nvml, &fake)
        .sample(Wanted::Power)
        .expect("it answers");
    let why = reason(&samples[0].readings, Quantity::Energy);
    assert!(why.contains("nvmlDeviceGetTotalEnergyConsumption"), "{why}");
}

#[test]
fn a_gpu_that_is_lost_does_not_take_the_others_along() {
    let Some(fake) = Fake::build("nvml", "count=3\nlost=1\nconstant_w=115\n") else {
        return;
    };
    let mut probe = opened(Kind::Nvml, &fake);
    let samples = probe.sample(Wanted::Power).expect("two answer");
    let power: Vec<_> = samples
        .iter()
        .map(|one| one.readings.get(Quantity::Power))
        .collect();
    assert_eq!(power, [Some(115.0), None, Some(115.0)]);
    let why = reason(&samples[1].readings, Quantity::Power);
    assert!(why.contains("lost") || why.contains("bus"), "{why}");
    let Some(fake) = Fake::build("nvml", "count=2\nlost=1\nlost_after=1\nconstant_w=115\n") else {
        return;
    };
    let samples = opened(Kind::Nvml, &fake)
        .sample(Wanted::Power)
        .expect("one answers");
    assert_eq!(samples[0].readings.get(Quantity::Power), Some(115.0));
    assert!(!reason(&samples[1].readings, Quantity::Power).is_empty());
    let Some(fake) = Fake::build("nvml", "count=1\nlost=0\nlost_after=1\n") else {
        return;
    };
    assert!(
        opened(Kind::Nvml, &fake).sample(Wanted::Power).is_err(),
        "nobody answers"
    );
}

#[test]
fn a_card_without_a_handle_is_not_another_s() {
    let configuration = "count=2\nret:cndevGetDeviceHandleByIndex=18\n";
    let Some(fake) = Fake::build("cndev_gen3", configuration) else {
        return;
    };
    let mut probe = opened(Kind::Cndev, &fake);
    assert_eq!(probe.units()[1].name, "Cambricon MLU");
    let samples = probe.sample(Wanted::Everything).expect("it answers");
    let why = reason(&samples[1].readings, Quantity::Power);
    assert_eq!(
        why,
        "cndevGetDeviceHandleByIndex: 18 (device has a problem)"
    );
}

#[test]
fn an_ascend_chip_without_a_whole_name_has_that_of_the_toolkit() {
    let Some(acl) = Fake::build("acl", "soc=Ascend910_9391\n") else {
        return;
    };
    let soc = |configuration: &str, acl: Option<&Fake>| {
        let fake = Fake::build("dcmi", configuration).expect("there is a compiler");
        let mut variables = fake.environment(variable(Kind::Dcmi));
        variables.extend(acl.map(|acl| ("WEIGHBRIDGE_ACL_LIB".to_owned(), acl.path().into())));
        let probe = open(Kind::Dcmi, &Selection::All, &Places::of(variables)).expect("it works");
        let facts = probe.units()[0].facts.clone();
        facts
            .into_iter()
            .find_map(|(name, value)| (name == "soc").then_some(value))
    };
    let a3 = "cards=0\npart=a3\n";
    assert_eq!(soc(a3, Some(&acl)).as_deref(), Some("Ascend910_9391"));
    assert_eq!(soc(a3, None), None);
    assert_eq!(soc("cards=0\n", Some(&acl)).as_deref(), Some("Ascend910B3"));
    let nameless = Fake::build("acl", "soc=\n").expect("there is a compiler");
    assert_eq!(soc(a3, Some(&nameless)), None);
}

#[test]
fn a_sampler_follows_power_that_changes() {
    let Some(fake) = Fake::build("dcmi", "cards=0 1\n") else {
        return;
    };
    let clock = Clock::wall();
    let sampler = Sampler::start(opened(Kind::Dcmi, &fake), &clock);
    clock.block_on(clock.sleep(Nanos(1_500_000_000)));
    let found = sampler.finish();
    let power = |device: usize| {
        let samples = found.devices[device].samples.iter();
        samples
            .filter_map(|sample| sample.power_w)
            .collect::<Vec<_>>()
    };
    assert!(power(0).len() >= 3, "{found:?}");
    // 400/37 W a second up or down, to a tenth of a watt.
    for pair in found.devices[0].samples.windows(2) {
        let seconds = (pair[1].at_ns - pair[0].at_ns) as f64 / 1e9;
        let moved = (pair[1].power_w.expect("power") - pair[0].power_w.expect("power")).abs();
        assert!(moved <= 10.82 * seconds + 0.2, "{moved} W in {seconds} s");
    }
    let steps = power(0);
    let way: f64 = steps.windows(2).map(|pair| (pair[1] - pair[0]).abs()).sum();
    assert!(way > 2.0, "{way} W");
    let apart = power(1)[0] - power(0)[0];
    assert!((apart - 10.0).abs() < 1.0, "{apart}");
}

#[cfg(unix)]
mod commands {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const TABLE: &str = "\
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
| 0     910B3               | OK            | 90.4        32                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          41697/ 65536         |
";
    const DUO: &str = "\
| NPU     Name              | Health        | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device            | Bus-Id        | AICore(%)    Memory-Usage(MB)                        |
| 2       310P3             | OK            | NA           43                0     / 0             |
| 0       0                 | 0000:82:00.0  | 0            994  / 21534                            |
| 2       310P3             | OK            | NA           41                0     / 0             |
| 1       1                 | 0000:82:00.0  | 0            994  / 21534                            |
";

    /// A command that prints, and places that know only it.
    fn command(variable: &str, script: &str) -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("command");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writable");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("ours");
        let variables = [
            (variable.to_owned(), path.into_os_string()),
            (
                "WEIGHBRIDGE_SYSROOT".to_owned(),
                folder.path().as_os_str().to_owned(),
            ),
        ];
        (folder, Places::of(variables.into()))
    }

    fn printing(text: &str) -> String {
        format!("cat <<'END'\n{text}END")
    }

    #[test]
    fn a_table_is_a_probe() {
        let (_folder, places) = command("WEIGHBRIDGE_NPU_SMI", &printing(TABLE));
        let mut probe = open(Kind::NpuSmi, &Selection::All, &places).expect("it prints");
        let expected = ["0 910B3 chip at None: 90.4 W, 0 %, 32 C, none MHz, 41697/65536 MiB"];
        assert_eq!(short(probe.as_mut()), expected);
    }

    const CNMON: &str = "\
| Card  VF  Name       Firmware |               Bus-Id | Util        Ecc-Error |
| Fan   Temp      Pwr:Usage/Cap |         Memory-Usage | Mode     Compute-Mode |
| 0     /   MLU370-X8    v1.1.6 |         0000:13:00.0 | 7%                  0 |
|  0%   28C        107 W/ 250 W |     0 MiB/ 20638 MiB | FULL          Default |
";
    const CNMON_INFO: &str = "\
Card 0
    Product Name                   : MLU370-X4
    Utilization
        MLU Average                : 66 %
    Temperature
        Chip                       : 64 C
    Power
        Usage                      : 44 W
";

    #[test]
    fn cambricon_s_command_is_a_probe_in_both_its_forms() {
        let (_folder, places) = command("WEIGHBRIDGE_CNMON", &printing(CNMON));
        let mut probe = open(Kind::Cnmon, &Selection::All, &places).expect("it prints");
        let expected = ["0 MLU370-X8 chip at None: 107 W, 7 %, 28 C, none MHz, 0/20638 MiB"];
        assert_eq!(short(probe.as_mut()), expected);
        // Whatever becomes of the table, the longer form is asked.
        for table in [
            "echo A new table of CNMON v9",
            "exit 4",
            "exec sleep 100",
            "true",
        ] {
            let script = format!(
                "if [ \"$1\" = info ]; then\n{}\nelse {table}; fi",
                printing(CNMON_INFO)
            );
            let (_folder, places) = command("WEIGHBRIDGE_CNMON", &script);
            let mut probe = open(Kind::Cnmon, &Selection::All, &places).expect(table);
            let expected = ["0 MLU370-X4 chip at None: 44 W, 66 %, 64 C, none MHz, none/none MiB"];
            assert_eq!(short(probe.as_mut()), expected, "{table}");
        }
    }

    #[test]
    fn nvidia_s_command_is_a_probe() {
        let line = "0, NVIDIA H20, GPU-1a, 115.42, 500.00, 3, 1024, 97871, 31, 1980\n";
        let (_folder, places) = command("WEIGHBRIDGE_NVIDIA_SMI", &printing(line));
        let mut probe = open(Kind::NvidiaSmi, &Selection::All, &places).expect("it prints");
        let expected = ["0 NVIDIA H20 chip at None: 115.42 W, 3 %, 31 C, 1980 MHz, 1024/97871 MiB"];
        assert_eq!(short(probe.as_mut()), expected);
    }

    #[test]
    fn a_card_s_power_is_asked_of_its_microcontroller() {
        let power =
            "printf '\\tNPU ID : 2\\n\\tPower Dissipation(W) : 40.6\\n\\tChip Name : mcu\\n'";
        let script = format!(
            "if [ \"$2\" = -t ]; then {power}; else\n{}\nfi",
            printing(DUO)
        );
        let (_folder, places) = command("WEIGHBRIDGE_NPU_SMI", &script);
        let mut probe = open(Kind::NpuSmi, &Selection::All, &places).expect("it prints");
        assert_eq!(
            short(probe.as_mut()),
            [
                "0 310P3 card at None: 40.6 W, 0 %, 43 C, none MHz, 994/21534 MiB",
                "1 310P3 card at Some(0): none W, 0 %, 41 C, none MHz, 994/21534 MiB",
            ]
        );
    }

    #[test]
    fn a_command_that_does_not_work_says_why() {
        let npu_smi = ("WEIGHBRIDGE_NPU_SMI", Kind::NpuSmi);
        let cnmon = ("WEIGHBRIDGE_CNMON", Kind::Cnmon);
        let nvidia_smi = ("WEIGHBRIDGE_NVIDIA_SMI", Kind::NvidiaSmi);
        for ((variable, kind), script, part) in [
            (
                npu_smi,
                "echo dcmi module initialize failed; exit 1",
                "dcmi module initialize failed",
            ),
            (npu_smi, "printf '\\377\\376\\001'", "printed no table"),
            (
                npu_smi,
                "echo There is no NPU card on this server.",
                "no device",
            ),
            (npu_smi, "exec sleep 100", "gave no answer in 5s"),
            (cnmon, "echo no driver >&2; exit 1", "no driver"),
            (cnmon, "printf '\\377\\376\\001'", "printed no table"),
            (cnmon, "exec sleep 100", "`cnmon ` gave no answer in 5s"),
            (
                nvidia_smi,
                "echo has failed because; exit 9",
                "has failed because",
            ),
            (
                nvidia_smi,
                "printf '\\377\\376\\001'",
                "nvidia-smi --query-gpu` printed",
            ),
            (nvidia_smi, "true", "no device"),
            (nvidia_smi, "exec sleep 100", "gave no answer in 5s"),
        ] {
            let (_folder, places) = command(variable, script);
            let error = open(kind, &Selection::All, &places).err().expect(script);
            assert!(error.to_string().contains(part), "{kind} {script}: {error}");
        }
    }

    #[test]
    fn a_device_that_goes_away_has_no_power() {
        let (folder, places) = command("WEIGHBRIDGE_NPU_SMI", &printing(TABLE));
        let mut probe = open(Kind::NpuSmi, &Selection::All, &places).expect("it prints");
        let other = printing(&TABLE.replace("| 0     910B3", "| 7     910B3"));
        let path = folder.path().join("command");
        std::fs::write(path, format!("#!/bin/sh\n{other}\n")).expect("writable");
        let samples = probe.sample(Wanted::Power).expect("it prints");
        let why = reason(&samples[0].readings, Quantity::Power);
        assert!(why.contains("no longer listed"), "{why}");
    }
}

#[test]
fn discovery_prefers_the_library_and_keeps_every_attempt() {
    let Some(fake) = Fake::build("dcmi", "cards=0 2 5\n") else {
        return;
    };
    let mut variables = fake.environment("WEIGHBRIDGE_DCMI_LIB");
    // Nobody listens there.
    for name in ["DCGM", "NPU", "MLU"] {
        let variable = format!("WEIGHBRIDGE_{name}_EXPORTER");
        variables.insert(variable, "http://127.0.0.1:9/metrics".into());
    }
    let found = discover(&Places::of(variables));
    let through: Vec<Kind> = found.devices.iter().map(|device| device.kind).collect();
    assert_eq!(through, [Kind::Dcmi; 3]);
    assert_eq!(found.attempts.len(), Kind::ALL.len());
    let none = Path::new("/no/such/root");
    let variables = [(
        "WEIGHBRIDGE_SYSROOT".to_owned(),
        none.as_os_str().to_owned(),
    )];
    let empty = discover(&Places::of(variables.into()));
    assert!(empty.devices.is_empty() && empty.pci.is_empty());
}
