//! The committed JSON schemas.

use reports::{Report, RequestRecord};
use schemars::Schema;

use crate::synthetic::{self, Story};

/// Compares with the committed schema; `UPDATE_SCHEMA=1` writes it instead.
fn check(name: &str, schema: &Schema) {
    let path = format!("{}/schema/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
    let text = serde_json::to_string_pretty(schema).expect("a schema is JSON") + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &text).expect("the schema can be written");
    }
    let committed = std::fs::read_to_string(&path).expect("the schema is committed");
    assert!(
        committed == text,
        "{path} is out of date: run the tests with UPDATE_SCHEMA=1"
    );
}

#[test]
fn committed_schemas_are_current() {
    check("report", &schemars::schema_for!(Report));
    check("gate", &schemars::schema_for!(reports::gate::GateReport));
    check("request", &schemars::schema_for!(RequestRecord));
}

fn assert_valid(schema: &Schema, value: &serde_json::Value) {
    let schema = serde_json::to_value(schema).expect("a schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| error.to_string())
        .collect();
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn reports_and_records_fit_their_schemas_and_come_back_equal() {
    let report = synthetic::report(Story::Steady, "ref-135m");
    let value = serde_json::to_value(&report).expect("a report is JSON");
    assert_valid(&schemars::schema_for!(Report), &value);
    assert_eq!(value["validity"]["verdict"], "VALID");
    let text = serde_json::to_string(&report).expect("a report is JSON");
    assert_eq!(
        serde_json::from_str::<Report>(&text).expect("our own JSON"),
        report
    );
    for record in synthetic::records(Story::Steady).iter().take(40) {
        let value = serde_json::to_value(record).expect("a record is JSON");
        assert_valid(&schemars::schema_for!(RequestRecord), &value);
        assert_eq!(
            &serde_json::from_value::<RequestRecord>(value).expect("our own"),
            record
        );
    }
}
