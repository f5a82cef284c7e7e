//! Reports side by side, and through other tools' formats and back.

use reports::compare::{Aspect, Comparison, Finding, compare};
use reports::dialect::{self, Dialect};
use reports::export::{self, Format};
use reports::render::{self, Style};
use reports::subject::{Basis, Source, Subject};
use reports::{Report, RequestRecord, import};

use crate::synthetic::{self, Story};

/// The steady run on a device that is a fifth faster and costs a third more.
fn faster() -> Report {
    let quicker = |mut record: RequestRecord| {
        let from = record.sent_ns.unwrap_or(record.intended_ns);
        let sooner = |at: u64| from + at.saturating_sub(from) * 4 / 5;
        record.admitted_ns = record.admitted_ns.map(sooner);
        record.chunk_ns = record.chunk_ns.into_iter().map(sooner).collect();
        record.end_ns = record.end_ns.map(sooner);
        record
    };
    let records: Vec<RequestRecord> = synthetic::records(Story::Steady)
        .into_iter()
        .map(quicker)
        .collect();
    let found = synthetic::measure(&records);
    let mut report = synthetic::report(Story::Steady, "ref-135m");
    "sim:nvidia-h200-sxm".clone_into(&mut report.target.name);
    "NVIDIA H200 SXM 141GB (simulated)".clone_into(&mut report.target.device);
    let price = synthetic::priced(&found.summary, "nvidia-h200-sxm-contract-3y", 1);
    report.cost = Some(price);
    (report.summary, report.histograms) = (found.summary, found.histograms);
    report
}

fn pair() -> Comparison {
    let steady = synthetic::report(Story::Steady, "ref-135m");
    let subjects = vec![Subject::from(&steady), Subject::from(&faster())];
    compare(subjects, 0, &[]).expect("they are alike")
}

fn tolerated() -> Comparison {
    let overloaded = synthetic::report(Story::Overloaded, "ref-<135m>");
    let mut steady = Subject::from(&synthetic::report(Story::Steady, "ref-135m"));
    "`<b>`|\u{1b}[31m".clone_into(&mut steady.label);
    let subjects = vec![steady, Subject::from(&overloaded), Subject::from(&faster())];
    let refused = compare(subjects.clone(), 0, &[]).expect_err("INVALID and another model");
    let text = refused.to_string();
    assert!(
        text.contains("invalid: ") && text.contains("model: "),
        "{text}"
    );
    compare(subjects, 0, &[Aspect::Invalid, Aspect::Model]).expect("allowed")
}

#[test]
fn a_comparison_on_a_terminal() {
    insta::assert_snapshot!(render::comparison(&pair(), Style::Plain));
}

#[test]
fn a_comparison_in_markdown() {
    insta::assert_snapshot!(render::comparison_markdown(&pair()));
}

#[test]
fn what_was_tolerated_is_said_everywhere() {
    let found = tolerated();
    let texts = [
        render::comparison(&found, Style::Plain),
        render::comparison_markdown(&found),
        render::comparison_html(&found),
    ];
    for text in texts {
        assert!(text.contains("in spite of invalid"), "{text}");
        // A browser does nothing with it, a terminal does.
        assert!(text.contains("<!DOCTYPE") || !text.contains('\u{1b}'));
        let markup = text.contains("<!DOCTYPE") || text.contains("|---|");
        assert!(!markup || !text.contains("<b>"), "a name became markup");
    }
    let longest = |text: &str| text.lines().map(|line| line.chars().count()).max();
    let terminal = render::comparison(&found, Style::Plain);
    assert!(longest(&terminal) <= Some(100), "{terminal}");
}

#[test]
fn the_page_of_a_comparison_is_whole() {
    let page = render::comparison_html(&pair());
    assert!(page.len() < 1_000_000 && !page.contains("https://") && !page.contains("http://"));
    assert_eq!(page.matches("<svg ").count(), 4);
    for term in page.split("href=\"#def-").skip(1) {
        let term = term.split('"').next().expect("a key");
        assert!(page.contains(&format!("<div id=\"def-{term}\">")), "{term}");
    }
    for title in ["What is compared", "Ratios", "Break-even price", "Notes"] {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
    }
}

#[test]
fn a_faster_device_is_found_to_be_so() {
    let found = pair();
    let finding = |key: &str| {
        let row = found.rows.iter().find(|row| row.figure == key)?;
        Some(row.entries[1]?.ratio?.finding)
    };
    assert_eq!(finding("ttft_s.p50"), Some(Finding::Better));
    assert!(finding("usd_per_query").is_some());
    assert_eq!(finding("request_rate"), Some(Finding::NoDifferenceShown));
    let again = compare(found.subjects.clone(), 1, &[]);
    let again = again.expect("the other way round");
    for (row, other) in found.rows.iter().zip(&again.rows) {
        let (Some(one), Some(two)) = (row.entries[1], other.entries[0]) else {
            continue;
        };
        if let (Some(one), Some(two)) = (one.ratio, two.ratio) {
            assert!((one.value * two.value - 1.0).abs() < 1e-9, "{}", row.figure);
        }
    }
}

/// What a run exported in a format says when it is read again.
fn there_and_back(format: Format) -> Subject {
    let report = synthetic::report(Story::Steady, "ref-135m");
    let files = export::files(format, &report, &synthetic::records(Story::Steady));
    let found = import::subjects(&files[0].text()).expect("our own export is read");
    assert_eq!(found.len(), 1);
    found.into_iter().next().expect("one")
}

fn value(subject: &Subject, key: &str) -> f64 {
    subject
        .figures
        .get(key)
        .map_or(f64::NAN, |figure| figure.value)
}

#[track_caller]
fn close(found: f64, expected: Option<f64>) {
    let expected = expected.expect("the dialect has it");
    assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
}

#[test]
fn an_export_is_read_with_the_figures_of_its_dialect() {
    let records = synthetic::records(Story::Steady);
    let cases = [
        (Format::Vllm, Dialect::Vllm, Source::Vllm),
        (Format::Aiperf, Dialect::Aiperf, Source::Aiperf),
    ];
    for (format, dialect, source) in cases {
        let subject = there_and_back(format);
        let figures = dialect::figures(dialect, records.iter(), synthetic::WINDOW);
        assert_eq!(subject.source, source);
        assert_eq!(subject.model.name.as_deref(), Some("ref-135m"));
        assert_eq!(subject.workload.target_rate, Some(7.0));
        assert_eq!(
            subject.basis,
            Basis::Simulated,
            "an export does not launder it"
        );
        close(value(&subject, "request_rate"), Some(figures.request_rate));
        close(
            value(&subject, "output_tokens_per_s"),
            Some(figures.output_tokens_per_s),
        );
        let last = figures.metrics.len() - 1;
        for (place, name) in [(0, "ttft_s"), (1, "tpot_s"), (last, "e2e_s")] {
            let metric = &figures.metrics[place];
            close(value(&subject, &format!("{name}.mean")), metric.mean_s);
            close(value(&subject, &format!("{name}.p50")), metric.p50_s);
            close(value(&subject, &format!("{name}.p99")), metric.p99_s);
        }
    }
}

#[test]
fn tables_of_requests_are_read_again_and_vouch_for_nothing() {
    let report = synthetic::report(Story::Steady, "ref-135m");
    let records = synthetic::records(Story::Steady);
    let read = |format| {
        let files = export::files(format, &report, &records);
        let found = import::subjects_of(&files[0].bytes).expect("our own table");
        found.into_iter().next().expect("one")
    };
    let (csv, parquet) = (read(Format::Csv), read(Format::Parquet));
    assert_eq!(
        csv.figures.keys().collect::<Vec<_>>(),
        parquet.figures.keys().collect::<Vec<_>>()
    );
    for (key, figure) in &csv.figures {
        close(figure.value, Some(value(&parquet, key)));
    }
    assert_eq!(csv.source, Source::Requests);
    assert!(csv.invalid[0].contains("does not say whether"));
    let summary = &report.summary;
    close(value(&csv, "ttft_s.mean"), summary.ttft_s.mean);
    close(value(&csv, "ttft_s.p90"), summary.ttft_s.p90);
    close(value(&csv, "tpot_s.p50"), summary.tpot_s.p50);
    close(value(&csv, "e2e_s.p95"), summary.e2e_s.p95);
    assert!(
        !csv.figures.contains_key("request_rate"),
        "it has no window"
    );

    let files = export::files(Format::Csv, &report, &records);
    let text = files[0].text();
    for (from, to, says) in [
        ("ttft_s", "ttft", "without ttft_s"),
        (",0.", ",x.", "is no number"),
    ] {
        let broken = text.replacen(from, to, 1);
        assert_ne!(broken, text);
        let error = import::subjects(&broken).expect_err("it is broken");
        assert!(error.to_string().contains(says), "{error}");
    }
    let files = export::files(Format::Parquet, &report, &records);
    let half = &files[0].bytes[..files[0].bytes.len() / 2];
    let error = import::subjects_of(half).expect_err("it is cut off");
    assert!(error.to_string().contains("not whole Parquet"), "{error}");
    let error = import::subjects_of(&[0xff, 0xfe]).expect_err("it is nothing");
    assert!(error.to_string().contains("neither text"), "{error}");
}

#[test]
fn an_invalid_run_stays_invalid_in_every_format() {
    let report = synthetic::report(Story::Overloaded, "ref-135m");
    let records = synthetic::records(Story::Overloaded);
    for format in [Format::Vllm, Format::Aiperf, Format::Inferencex] {
        let files = export::files(format, &report, &records);
        let found = import::subjects(&files[0].text()).expect("our own export");
        assert_eq!(found[0].invalid, report.validity.reasons, "{format}");
        assert_eq!(found[0].workload.slo, report.workload.slo);
    }
}

#[test]
fn a_row_of_inferencex_is_vllm_s_figures_in_seconds() {
    let (row, vllm) = (
        there_and_back(Format::Inferencex),
        there_and_back(Format::Vllm),
    );
    for key in ["ttft_s.p50", "ttft_s.p99", "tpot_s.mean", "e2e_s.p90"] {
        close(value(&row, key), Some(value(&vllm, key)));
    }
    let per_device = value(&row, "output_tokens_per_s_per_device");
    close(per_device, Some(value(&vllm, "output_tokens_per_s")));
    assert_eq!(row.devices, Some(1));
}

#[test]
fn aiperf_s_lines_and_the_csv_have_every_request_of_the_window() {
    let report = synthetic::report(Story::Steady, "ref-135m");
    let records = synthetic::records(Story::Steady);
    let wanted = report.summary.requests;
    let aiperf = export::files(Format::Aiperf, &report, &records);
    let lines: Vec<serde_json::Value> = aiperf[1]
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len() as u64, wanted.total);
    let failed = lines.iter().filter(|line| !line["error"].is_null());
    assert_eq!(failed.count() as u64, wanted.total - wanted.ok);
    let csv = export::files(Format::Csv, &report, &records).remove(0);
    assert_eq!(csv.text().lines().count() as u64, wanted.total + 1);
    let columns = |line: &str| line.split(',').count();
    let head = csv.text().lines().next().map(columns);
    assert!(csv.text().lines().all(|line| Some(columns(line)) == head));
}

#[test]
fn the_parquet_file_has_the_rows_of_the_csv() {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::RowAccessor as _;
    let report = synthetic::report(Story::Overloaded, "ref-135m");
    let records = synthetic::records(Story::Overloaded);
    let file = export::files(Format::Parquet, &report, &records).remove(0);
    let reader = SerializedFileReader::new(bytes::Bytes::from(file.bytes)).expect("a file");
    let csv = export::files(Format::Csv, &report, &records)
        .remove(0)
        .text();
    let mut lines = csv.lines();
    let heads: Vec<&str> = lines.next().expect("a head").split(',').collect();
    let schema = reader.metadata().file_metadata().schema_descr();
    let columns: Vec<&str> = schema
        .columns()
        .iter()
        .map(|column| column.name())
        .collect();
    assert_eq!(columns, heads);
    let at = |name: &str| heads.iter().position(|head| *head == name).expect(name);
    let mut rows = 0;
    for (row, line) in reader.get_row_iter(None).expect("rows").zip(lines) {
        let row = row.expect("a row");
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(row.get_long(0).expect("an id").to_string(), cells[0]);
        let outcome = at("outcome");
        assert_eq!(row.get_string(outcome).expect("a text"), cells[outcome]);
        let ttft = row.get_double(at("ttft_s")).ok();
        assert_eq!(
            ttft,
            cells[at("ttft_s")].parse().ok(),
            "null where the CSV is empty"
        );
        rows += 1;
    }
    assert_eq!(rows, report.summary.requests.total);
}
