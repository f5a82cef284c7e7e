//! Price sheets, worked examples of the bill, and shares that add up.

use proptest::prelude::*;
use reports::cost::{
    self, Confidence, Cost, CostError, Estimate, Measured, Per, Priced, Sheet, SplitMethod,
};
use reports::schema::{DeviceTime, Energy, EnergyDevice, Rate, RequestCounts, Served, Summary};

use crate::synthetic::{self, Story};

/// A sheet with one rented device; `body` is more of the device.
fn rented(body: &str) -> String {
    format!(
        "name = 'mine'\nabout = 'a test'\n[[device]]\nid = 'a'\nmatch = ['abacus']\nwhat = 'w'\n\
         {body}"
    )
}

const RENT: &str = "rental_per_hour = { mid = 3.6, source = 's', date = '2026-01', confidence = \
                    'example' }\n";

/// A sheet with one owned device: 8760 an 8760-hour year.
const OWNED: &str = "
name = 'mine'
about = 'a test'
currency = 'CNY'
per_usd.CNY = { mid = 7.0, source = 's', date = '2026', confidence = 'example' }
site.tariff_per_kwh = { mid = 0.7, source = 's', date = '2026', confidence = 'example' }
site.pue = { mid = 1.5, source = 's', date = '2026', confidence = 'example' }
[terms]
life_years = { mid = 4, source = 's', date = '2026', confidence = 'example' }
discount_rate = { mid = 0.1, source = 's', date = '2026', confidence = 'example' }
residual = { mid = 0.2, source = 's', date = '2026', confidence = 'example' }
maintenance_per_year = { mid = 0.05, source = 's', date = '2026', confidence = 'example' }
availability = { mid = 0.5, source = 's', date = '2026', confidence = 'example' }
network_share = { mid = 0.1, source = 's', date = '2026', confidence = 'example' }
[[device]]
id = 'a'
match = ['abacus']
what = 'w'
purchase_devices = 8
purchase = { mid = 4905600, source = 's', date = '2026', confidence = 'example' }
power_w = { mid = 800, source = 's', date = '2026', confidence = 'example' }
host_power_w = { mid = 200, source = 's', date = '2026', confidence = 'example' }
";

fn refused(text: &str) -> String {
    let error = Sheet::parse(text, "my.toml").expect_err("a mistake");
    error.to_string()
}

fn priced(text: &str, units: u32) -> Priced {
    let sheet = Sheet::parse(text, "my.toml").expect("a right sheet");
    Priced::new(&sheet, "abacus", units).expect("it has an abacus")
}

/// A window of an hour that served 1,000 of 1,250 requests.
fn summary() -> Summary {
    let mut summary = synthetic::measure(&[]).summary;
    summary.window_s = 3_600.0;
    summary.requests = RequestCounts {
        total: 1_250,
        ok: 1_100,
        failed: 150,
        ..RequestCounts::default()
    };
    summary.served = Some(Served {
        requests: 1_000,
        input_tokens: 2_000_000,
        cached_input_tokens: Some(500_000),
        output_tokens: 400_000,
        short_output_tokens: 100_000,
        long_prompts: 0,
    });
    summary.goodput_rate = Some(Rate {
        per_s: 1_000.0 / 3_600.0,
        ci95: None,
    });
    summary
}

const TIME: DeviceTime = DeviceTime {
    prefill_s: 600.0,
    decode_s: 1_800.0,
    idle_s: 1_200.0,
    steps: 1,
};

fn measured(summary: &Summary) -> Measured<'_> {
    Measured {
        device_time: Some(&TIME),
        characters_per_token: Some(0.5),
        ..synthetic::measured_for(summary)
    }
}

fn close(found: Option<Estimate>, expected: f64) -> bool {
    found.is_some_and(|found| (found.mid / expected - 1.0).abs() < 1e-9)
}

#[test]
fn built_in_sheets_are_sourced_and_know_what_they_do_not_know() {
    for (name, _) in cost::sheet::BUILTIN {
        let sheet = Sheet::builtin(name).expect("it is built in");
        assert_eq!(sheet.name, name);
        assert!(!sheet.devices.is_empty());
    }
    let rental = Sheet::builtin("rental").expect("built in");
    let cpu = rental.find("cpu").expect("a price for the CPU");
    assert_eq!(cpu.per, Per::Vcpu);
    let h100 = Priced::new(&rental, "NVIDIA H100 80GB HBM3", 1).expect("an H100");
    assert_eq!(h100.device.id, "nvidia-h100-sxm");
    assert_eq!(rental.find("NVIDIA H100 PCIe"), None);
    let h20 = Priced::new(&rental, "NVIDIA H20", 1).expect_err("nobody can be cited");
    assert!(h20.to_string().contains("no citable hourly price"), "{h20}");
    assert!(
        matches!(h20, CostError::NoPrice { .. }),
        "an H20 is no H200"
    );
    let china = Sheet::builtin("china").expect("built in");
    assert!(Priced::new(&china, "Ascend 910B3", 8).is_ok());
    let unknown = Priced::new(&china, "abacus", 1).expect_err("no such device");
    assert!(unknown.to_string().contains("nvidia-h20-sxm"), "{unknown}");
    let defaults = Sheet::defaults();
    assert!(defaults.utilisation.is_some() && defaults.requests_per_mau_month.is_some());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn mistakes_name_file_key_value_and_what_is_accepted() {
    let rent = |body: &str| rented(&format!("rental_per_hour = {{ {body} }}"));
    let sourced = "source = 's', date = '2026-01', confidence = 'example'";
    let cases = [
        (
            rent(&format!("mid = -1, {sourced}")),
            "my.toml: device[a].rental_per_hour = -1: accepted is a number over 0",
        ),
        (
            rent(&format!("mid = inf, {sourced}")),
            "= inf: accepted is a number over 0",
        ),
        (rent(&format!("low = 1, {sourced}")), "an incomplete range"),
        (
            rent(&format!("low = 3, mid = 2, high = 4, {sourced}")),
            "low ≤ mid ≤ high",
        ),
        (
            rent("mid = 1, source = ' ', date = '2026', confidence = 'low'"),
            "device[a].rental_per_hour.source",
        ),
        (
            rent("mid = 1, source = 's', date = '2026-13', confidence = 'low'"),
            "date = \"2026-13\": accepted is YYYY-MM-DD, YYYY-MM or YYYY",
        ),
        (
            rent("mid = 1, source = 's', date = '2026', confidence = 'sure'"),
            "unconfirmed",
        ),
        (rented(&format!("{RENT}colour = 3")), "colour"),
        (rented(""), "device[a]: it has no price"),
        (
            rented(&format!("{RENT}missing = 'x'")),
            "contradict each other",
        ),
        (
            rent(&format!("mid = 1, currency = 'XAU', {sourced}")),
            "no rate for XAU is given\n\nhint: add `[per_usd.XAU]`",
        ),
        (
            rent(&format!("mid = 1, currency = 'yuan', {sourced}")),
            "an ISO 4217 code",
        ),
        (OWNED.replace("life_years", "life_decades"), "life_decades"),
        (
            OWNED.replace("site.pue = { mid = 1.5", "site.pue = { mid = 0.9"),
            "site.pue = 0.9",
        ),
        (
            OWNED.replace("residual = { mid = 0.2", "residual = { mid = 1.0"),
            "terms.residual = 1",
        ),
        (
            OWNED
                .lines()
                .filter(|line| !line.contains("pue"))
                .collect::<Vec<_>>()
                .join("\n"),
            "nothing says what its power costs",
        ),
        (
            OWNED
                .lines()
                .filter(|line| !line.contains("life"))
                .collect::<Vec<_>>()
                .join("\n"),
            "`terms.life_years` is missing",
        ),
        (
            OWNED.replace("purchase_devices = 8", "purchase_devices = 0"),
            "1 or more",
        ),
    ];
    for (text, expected) in cases {
        let message = refused(&text);
        assert!(message.starts_with("my.toml: "), "{message}");
        assert!(message.contains(expected), "{message}\nwanted: {expected}");
    }
}

#[test]
fn a_rented_device_by_hand() {
    let summary = summary();
    let cost = cost::price(&measured(&summary), &priced(&rented(RENT), 2)).expect("priced");
    // 2 × 3.60 an hour, one hour, 1,000 served; prefill has a quarter of the device's time.
    assert!(close(Some(cost.usd_window), 7.2));
    let figures = &cost.at_this_load;
    assert!(close(figures.usd_per_query, 0.0072));
    assert!(close(figures.usd_per_million_input_tokens, 1.8 / 2.0));
    assert!(close(
        figures.usd_per_million_uncached_input_tokens,
        1.8 / 1.5
    ));
    assert!(
        figures
            .usd_per_million_cached_input_tokens
            .is_some_and(|cost| cost.mid == 0.0)
    );
    assert!(close(figures.usd_per_million_output_tokens, 5.4 / 0.4));
    assert!(close(figures.usd_per_million_total_tokens, 7.2 / 2.4));
    assert!(close(
        figures.usd_per_million_output_tokens_whole_cost,
        7.2 / 0.4
    ));
    assert!(close(figures.usd_per_million_chinese_characters, 7.2 / 1.2));
    assert!(close(figures.usd_per_mau_month, 0.0072 * 31.9));
    let day = cost.over_the_day.as_ref().expect("a part of a day");
    assert!(close(day.figures.usd_per_query, 0.0072 / 0.588));
    // Offered 1,250: 0.00576 for each, 0.00144 more since 250 were not served, then idle hours.
    let steps = cost.waterfall();
    let names: Vec<&str> = steps.iter().map(|step| step.0.as_str()).collect();
    assert_eq!(names, ["rental", "failed or late", "idle hours of the day"]);
    assert!((steps[0].1 - 0.00576).abs() < 1e-12 && (steps[1].1 - 0.00144).abs() < 1e-12);
    let sum: f64 = steps.iter().map(|step| step.1).sum();
    assert!(close(day.figures.usd_per_query, sum));
}

/// Over an hour, of so many devices together.
fn half_a_kilowatt(scope: &str, source: &str, sensors: usize) -> Energy {
    let joules = 500.0 * 3_600.0;
    let each = EnergyDevice {
        joules: Some(joules / sensors as f64),
        ..EnergyDevice::default()
    };
    Energy {
        joules: Some(joules),
        scope: scope.to_owned(),
        source: source.to_owned(),
        devices: vec![each; sensors],
        ..Energy::default()
    }
}

#[test]
fn an_owned_device_by_hand() {
    // 4,905,600 CNY for 8 is 87,600 USD each; CRF(10 %, 4) = 0.3154708, SFF = 0.2154708; half of
    // 8,760 hours. Power: 1 kW × 1.5 × 0.10 USD.
    let summary = summary();
    let cost = cost::price(&measured(&summary), &priced(OWNED, 1)).expect("priced");
    let expected = [
        (
            "capital",
            87_600.0 * (0.315_470_804 - 0.2 * 0.215_470_804) / 4_380.0,
        ),
        ("network", 0.1 * 87_600.0 * 0.315_470_804 / 4_380.0),
        ("maintenance", 0.05 * 87_600.0 / 4_380.0),
        ("power", 0.15),
    ];
    for (part, (name, usd)) in cost.hour.iter().zip(expected) {
        assert_eq!(part.name, name);
        assert!(
            (part.usd.mid / usd - 1.0).abs() < 1e-8,
            "{part:?}, not {usd}"
        );
    }
    let sum: f64 = cost.hour.iter().map(|part| part.usd.mid).sum();
    assert!(close(Some(cost.usd_per_hour), sum));
    assert_eq!(cost.confidence, Confidence::Example);
    assert!(cost.inputs.contains_key("CNY_per_usd") && cost.inputs.contains_key("power_w"));
    // A sensor on the card replaces the card's watts, one on the node the host's too.
    for (scope, kilowatts) in [("card", 0.5 + 0.2), ("node", 0.5)] {
        let energy = half_a_kilowatt(scope, "nvml: total energy", 1);
        let measured = Measured {
            energy: Some(&energy),
            ..measured(&summary)
        };
        let cost = cost::price(&measured, &priced(OWNED, 1)).expect("priced");
        assert!(
            (cost.hour[3].usd.mid - kilowatts * 0.15).abs() < 1e-12,
            "{scope}"
        );
        assert_eq!(cost.measured_power_w, Some(500.0));
        assert!(!cost.inputs.contains_key("power_w"));
    }
    // Power of something else is not in the bill, and the bill says why.
    for (source, sensors, why) in [
        ("rapl: energy_uj", 1, "the processor's"),
        (
            "nvml: total energy",
            8,
            "8 devices was measured, and 1 is paid for",
        ),
    ] {
        let energy = half_a_kilowatt("card", source, sensors);
        let measured = Measured {
            energy: Some(&energy),
            ..measured(&summary)
        };
        let cost = cost::price(&measured, &priced(OWNED, 1)).expect("priced");
        assert!((cost.hour[3].usd.mid - 0.15).abs() < 1e-12, "{source}");
        assert_eq!(cost.measured_power_w, None);
        let said = &cost.null_reasons["measured_power_w"];
        assert!(said.contains(why), "{said}");
    }
    let dark: Vec<&str> = OWNED
        .lines()
        .filter(|line| !line.starts_with("power_w"))
        .collect();
    let error = cost::price(&measured(&summary), &priced(&dark.join("\n"), 1));
    let error = error
        .expect_err("nothing says how much power it takes")
        .to_string();
    assert!(error.contains("hint: add `power_w`"), "{error}");
}

#[test]
fn a_card_of_two_devices_is_paid_for_once_and_both_its_sensors_count() {
    let summary = summary();
    let energy = half_a_kilowatt("chip", "cndev: power", 2);
    let both = Measured {
        energy: Some(&energy),
        ..measured(&summary)
    };
    for (devices, watts) in [(1, None), (2, Some(500.0)), (4, None)] {
        let card = priced(OWNED, 1).with_devices_per_unit(devices);
        let cost = cost::price(&both, &card).expect("priced");
        assert_eq!(cost.measured_power_w, watts, "{devices} devices in one");
    }
}

/// `$/M tok = $/GPU-h ÷ (tok/s/GPU × 3600 / 1e6)`, as the `InferenceX` calculator has it.
#[test]
fn the_inferencex_figure_for_its_own_inputs() {
    let rental = Sheet::builtin("rental").expect("built in");
    let device = Priced::new(&rental, "nvidia-h100-sxm-contract-3y", 1).expect("it is known");
    let summary = summary();
    let cost = cost::price(&measured(&summary), &device).expect("priced");
    let served = summary.served.expect("something was");
    let theirs = |tokens: u64| {
        let per_gpu_s = tokens as f64 / 3_600.0;
        1.30 / (per_gpu_s * 3_600.0 / 1e6)
    };
    let figures = &cost.at_this_load;
    let whole = figures.usd_per_million_output_tokens_whole_cost;
    assert!(close(whole, theirs(served.output_tokens)));
    let total = served.input_tokens + served.output_tokens;
    assert!(close(figures.usd_per_million_total_tokens, theirs(total)));
    // Their input-only figure charges the whole device too; ours leaves output its share.
    let input = figures.usd_per_million_input_tokens.expect("served").mid;
    assert!((input / theirs(served.input_tokens) - 0.25).abs() < 1e-9);
}

#[test]
fn a_bill_from_the_requests_themselves() {
    let records = synthetic::records(Story::Steady);
    let summary = synthetic::measured(Story::Steady).summary;
    let cost = synthetic::priced(&summary, "nvidia-h100-sxm", 1);
    // Once more from the lines of requests.jsonl, by the definitions alone.
    let in_window = |at: u64| (10_000_000_000..130_000_000_000).contains(&at);
    let within =
        |value: Option<u64>, limit_s: f64| value.is_none_or(|ns| ns as f64 <= limit_s * 1e9);
    let mut sums = (0_u64, 0_u64, 0_u64);
    for record in &records {
        let ok = record.outcome == reports::Outcome::Ok && in_window(record.intended_ns);
        if ok && within(record.ttft_ns(), 0.6) && within(record.tpot_ns(), 0.04) {
            sums.0 += 1;
            sums.1 += record.input_tokens;
            sums.2 += record.output_tokens;
        }
    }
    let usd = 2.745 * 120.0 / 3_600.0;
    let figures = &cost.at_this_load;
    assert!(close(figures.usd_per_query, usd / sums.0 as f64));
    let tokens = (sums.1 + sums.2) as f64;
    assert!(close(
        figures.usd_per_million_total_tokens,
        1e6 * usd / tokens
    ));
    let input = usd * 21.5 / 86.0;
    assert!(close(
        figures.usd_per_million_input_tokens,
        1e6 * input / sums.1 as f64
    ));
}

#[test]
fn intervals_hold_the_price_range_and_the_rate() {
    let summary = synthetic::measured(Story::Steady).summary;
    let cost = synthetic::priced(&summary, "nvidia-h100-sxm", 1);
    let mid = cost.usd_per_hour.mid;
    let (low, high) = cost.usd_per_hour.interval().expect("a range");
    assert!(1.99 < low && low < mid && mid < high && high < 3.5);
    assert!((mid - 2.745).abs() < 1e-12);
    let query = cost.at_this_load.usd_per_query.expect("served");
    let ends = query.interval().expect("the rate has one");
    assert!(
        ends.1 / ends.0 > high / low,
        "the rate's own interval comes on top"
    );
    let again = synthetic::priced(&summary, "nvidia-h100-sxm", 1);
    assert_eq!(cost, again, "drawn from a fixed seed");
}

#[test]
fn a_rate_without_an_interval_gives_costs_without_one_and_says_so() {
    let measured = synthetic::measured(Story::Steady).summary;
    let known = measured.goodput_rate.expect("an SLO");
    let ends = known.ci95.expect("an interval");
    let half = |cost: &Cost| {
        let day = cost.over_the_day.as_ref().expect("not a whole day");
        let figures = [&cost.at_this_load, &day.figures].map(cost::Figures::by_key);
        let figures = figures.into_iter().flatten();
        let (with, without): (Vec<_>, Vec<_>) = figures
            .filter_map(|(_, figure)| figure)
            .partition(|figure| figure.interval().is_some());
        (with.len(), without.len())
    };
    for (ci95, unit, spread) in [
        (Some(ends), "nvidia-h100-sxm", true),
        (None, "nvidia-h100-sxm", false),
        // A price without a range makes no figure exact.
        (None, "cpu", false),
        (Some((0.0, ends.1)), "nvidia-h100-sxm", false),
    ] {
        let mut summary = measured.clone();
        summary.goodput_rate = Some(Rate { ci95, ..known });
        let cost = synthetic::priced(&summary, unit, 1);
        let (with, without) = half(&cost);
        assert!(with + without > 10, "{with} + {without}");
        assert_eq!((with > 0, without > 0), (spread, !spread), "{ci95:?}");
        assert_eq!(cost.null_reasons.contains_key("interval"), !spread);
        assert!(
            cost.usd_per_hour.interval().is_some(),
            "a price has a range"
        );
        // Without an SLO what finished is what was served.
        summary.goodput_rate = None;
        summary.request_rate = Rate { ci95, ..known };
        assert_eq!(half(&synthetic::priced(&summary, unit, 1)), (with, without));
    }
}

#[test]
fn nothing_served_costs_nothing_and_says_why() {
    let summary = synthetic::measure(&[]).summary;
    let cost = synthetic::priced(&summary, "cpu", 4);
    assert_eq!(cost.at_this_load, cost::Figures::default());
    assert_eq!(cost.null_reasons.len(), 9);
    assert!(
        cost.null_reasons
            .values()
            .all(|why| why == "no request met the SLO")
    );
    assert_eq!((cost.over_the_day, cost.split), (None, None));
}

proptest! {
    /// Whatever the split comes from, input and output make the bill, to the cent.
    #[test]
    fn shares_add_up_to_the_bill(
        prefill_s in 0.0..1e4_f64,
        decode_s in 0.0..1e4_f64,
        requests in 1..1_000_000_u64,
        input in 1..1_000_000_000_u64,
        cached in 0.0..=1.0_f64,
        output in 1..1_000_000_000_u64,
        method in 0..3_u8,
        units in 1..64_u32,
    ) {
        let time = DeviceTime { prefill_s, decode_s, idle_s: 0.0, steps: 1 };
        let served = Served {
            requests,
            input_tokens: input,
            cached_input_tokens: Some((input as f64 * cached) as u64),
            output_tokens: output,
            ..Served::default()
        };
        let mut summary = summary();
        summary.served = Some(served);
        let solved = cost::TokenTimes { input_s: 1e-5, output_s: 1e-3, runs: 2 };
        let measured = Measured {
            device_time: (method == 0).then_some(&time),
            solved: (method == 1).then_some(solved),
            ..measured(&summary)
        };
        let cost: Cost = cost::price(&measured, &priced(OWNED, units)).expect("priced");
        let expected = match method {
            0 if prefill_s + decode_s > 0.0 => SplitMethod::DeviceTime,
            1 => SplitMethod::Solved,
            _ => SplitMethod::Assumed,
        };
        prop_assert_eq!(cost.split.as_ref().map(|split| split.method), Some(expected));
        let (paid_in, paid_out) = (cost.input_usd.unwrap_or(0.0), cost.output_usd.unwrap_or(0.0));
        prop_assert!((paid_in + paid_out - cost.usd_window.mid).abs() < 0.01);
        let million = |figure: Option<Estimate>, tokens: f64| {
            figure.map_or(0.0, |figure| figure.mid * tokens / 1e6)
        };
        let figures = &cost.at_this_load;
        let cached = served.cached_input_tokens.unwrap_or(0) as f64;
        let fresh = input as f64 - cached;
        let by_input = million(figures.usd_per_million_input_tokens, input as f64);
        let by_output = million(figures.usd_per_million_output_tokens, output as f64);
        prop_assert!((by_input + by_output - cost.usd_window.mid).abs() < 0.01);
        if fresh > 0.0 {
            let parts = million(figures.usd_per_million_uncached_input_tokens, fresh)
                + million(figures.usd_per_million_cached_input_tokens, cached);
            prop_assert!((parts - by_input).abs() < 0.01);
        }
        let query = figures.usd_per_query.map_or(0.0, |query| query.mid);
        prop_assert!((query * requests as f64 - cost.usd_window.mid).abs() < 0.01);
    }
}
