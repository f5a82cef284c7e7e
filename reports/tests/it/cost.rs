//! Price files and the additive split.

use reports::cost::{self, Confidence, Per, PriceFile};

use crate::synthetic::{self, Story};

fn file(body: &str) -> String {
    format!(
        "[[price]]\nid = \"a\"\ndevice = \"cpu\"\nwhat = \"w\"\nsource = \"s\"\n\
         date = \"2026-01\"\n\
         confidence = \"example\"\n{body}"
    )
}

#[test]
fn builtin_file_is_valid_and_sourced() {
    let builtin = PriceFile::builtin();
    let text = include_str!("../../prices/builtin.toml");
    assert_eq!(
        PriceFile::parse(text, "builtin.toml").expect("it must load"),
        builtin
    );
    let cpu = builtin.find("cpu").expect("a price for the CPU");
    assert_eq!((cpu.per, cpu.usd_per_hour), (Per::Vcpu, 0.08925 / 2.0));
    assert_eq!(cpu.confidence, Confidence::Medium);
    let h100 = builtin.find("NVIDIA H100 80GB HBM3").expect("an H100");
    assert_eq!(h100.usd_per_hour_range, Some((1.99, 3.5)));
    assert_eq!(builtin.find("nvidia-h100-sxm"), Some(h100));
    assert_eq!(builtin.find("NVIDIA H20"), None, "an H20 is no H200");
    assert_eq!(builtin.find("NVIDIA H100 PCIe"), None);
    assert!(builtin.by_id("nvidia-h100-sxm-contract-3y").is_some());
}

#[test]
fn mistakes_name_file_key_value_and_what_is_accepted() {
    let refused = |text: &str| {
        PriceFile::parse(text, "my.toml")
            .expect_err("a mistake")
            .to_string()
    };
    assert_eq!(
        refused(&file("usd_per_hour = -1")),
        "my.toml: price[a].usd_per_hour = -1: accepted is a number over 0"
    );
    assert!(refused(&file("usd_per_hour = inf")).contains("= inf: accepted is a number over 0"));
    let date = file("usd_per_hour = 1").replace("2026-01", "2026-13");
    assert_eq!(
        refused(&date),
        "my.toml: price[a].date = \"2026-13\": accepted is YYYY-MM-DD or YYYY-MM"
    );
    let source = file("usd_per_hour = 1").replace("\"s\"", "\" \"");
    assert!(refused(&source).contains("price[a].source"));
    let unknown = refused(&file("usd_per_hour = 1\ncolour = 3"));
    assert!(
        unknown.starts_with("my.toml: ") && unknown.contains("colour"),
        "{unknown}"
    );
    let confidence = refused(&file("usd_per_hour = 1").replace("example", "certain"));
    assert!(
        confidence.contains("certain") && confidence.contains("unconfirmed"),
        "{confidence}"
    );
    let twice = format!("{}\n{}", file("usd_per_hour = 1"), file("usd_per_hour = 2"));
    assert!(refused(&twice).contains("an id no other price has"));
    let range = file("usd_per_hour = 1\nusd_per_hour_range = [2, 3]");
    assert!(refused(&range).contains("[low, high] around usd_per_hour"));
    let weight = "[output_token_weight]\nvalue = 0\nsource = \"s\"\n\
         date = \"2026-01\"";
    assert!(refused(weight).contains("output_token_weight.value = 0"));
}

#[test]
#[expect(
    clippy::float_cmp,
    reason = "the parts add up exactly, by construction"
)]
fn the_parts_add_up_to_the_whole() {
    let summary = synthetic::measured(Story::Steady).summary;
    let price = PriceFile::builtin()
        .resolve("nvidia-h100-sxm", 2)
        .expect("built in");
    let cost = cost::price(&summary, &price);
    assert_eq!(cost.usd_per_hour, 2.0 * 2.745);
    assert_eq!(cost.usd_window, 5.49 * 120.0 / 3_600.0);
    let (input, output) = (
        cost.input_usd.expect("served"),
        cost.output_usd.expect("served"),
    );
    assert_eq!(input + output, cost.usd_window);
    let million = |usd: Option<f64>, tokens: u64| usd.expect("served") * tokens as f64 / 1e6;
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
    assert!(close(
        million(cost.usd_per_million_input_tokens, summary.input_tokens),
        input
    ));
    assert!(close(
        million(cost.usd_per_million_output_tokens, summary.output_tokens),
        output
    ));
    let whole = cost.usd_per_million_output_tokens_whole_cost;
    assert!(close(
        million(whole, summary.output_tokens),
        cost.usd_window
    ));
    let per_query = cost.per_query_usd.expect("served");
    assert!(close(per_query * cost.queries as f64, cost.usd_window));
    assert!(cost.per_goodput_query_usd.expect("an SLO") > per_query);
    let (low, high) = cost.ci95["per_query_usd"];
    assert!(low < per_query && per_query < high);
    assert!(cost.null_reasons.is_empty());
}

#[test]
fn nothing_served_costs_nothing_and_says_why() {
    let summary = synthetic::measure(&[]).summary;
    let price = PriceFile::builtin().resolve("cpu", 4).expect("built in");
    let cost = cost::price(&summary, &price);
    assert_eq!(
        (cost.per_query_usd, cost.usd_per_million_total_tokens),
        (None, None)
    );
    assert_eq!(
        cost.null_reasons["per_query_usd"],
        "no request finished in the measured window"
    );
    assert_eq!(
        cost.null_reasons["per_goodput_query_usd"],
        "no request met the SLO"
    );
    assert_eq!(cost.null_reasons.len(), 8);
}
