//! Each format, plain and packed, right and wrong, from small files made by hand.

use std::io::Write as _;
use std::path::PathBuf;

use super::*;

const MOONCAKE: &str = r#"{"timestamp": 0, "input_length": 700, "output_length": 50, "hash_ids": [0, 1]}
{"timestamp": 3000, "input_length": 1500, "output_length": 60, "hash_ids": [0, 2, 3]}

{"timestamp": 3000, "input_length": 1600, "output_length": 0, "hash_ids": [0, 2, 3, 4]}
{"timestamp": 9000, "input_length": 512, "output_length": 7, "hash_ids": [0], "extra": true}
"#;
const BAILIAN: &str = r#"{"chat_id":7,"parent_chat_id":-1,"timestamp":61.5,"input_length":30,"output_length":9,"type":"text","turn":1,"hash_ids":[5,6]}
{"chat_id":8,"parent_chat_id":7,"timestamp":70.25,"input_length":60,"output_length":4,"type":"text","turn":2,"hash_ids":[5,6,7,8]}
{"chat_id":9,"parent_chat_id":8,"timestamp":90.0,"input_length":70,"output_length":4,"type":"text","turn":3,"hash_ids":[5,6,7,8,9]}
"#;
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:15:46.6805900,374,44\r
2023-11-16 18:15:50.9951690,396,109\r
";
const AZURE_2024: &str = "TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.517930+00:00,2399,6
";
const BURSTGPT: &str = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,0,1087,API log
118,ChatGPT,417,276,693,Conversation log
";
const SHAREGPT: &str = r#" [
{"id":"a","conversations":[{"from":"human","value":"你好"},{"from":"gpt","value":"你好呀"},{"from":"human","value":"再见"}]},
{"id":"b","conversations":[{"from":"gpt","value":"我先说"}]},
{"id":"c","conversations":[{"role":"system","content":"简短"},{"role":"user","content":"一"},{"role":"assistant","content":"二"},{"role":"user","content":"三"},{"role":"assistant","content":"四"}]}
]"#;

fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("writable");
    (folder, path.display().to_string())
}

fn read_text(kind: TraceKind, text: &str) -> Result<Trace, TraceError> {
    let (_folder, path) = file("trace", text);
    read(kind, &path, None)
}

fn requests(trace: &Trace) -> &Requests {
    match &trace.content {
        Content::Requests(requests) => requests,
        Content::Conversations(_) => panic!("these are requests"),
    }
}

/// `(instant, input, output, session, turn)` of each.
fn short(trace: &Trace) -> Vec<(f64, u32, u32, u64, u32)> {
    let row = |r: &Request| (r.at_s, r.input_tokens, r.output_tokens, r.session, r.turn);
    requests(trace).list.iter().map(row).collect()
}

#[test]
fn every_format_is_read() {
    let mooncake = read_text(TraceKind::Mooncake, MOONCAKE).expect("it is good");
    assert_eq!(
        short(&mooncake),
        [
            (0.0, 700, 50, 0, 0),
            (3.0, 1500, 60, 1, 0),
            (9.0, 512, 7, 2, 0)
        ]
    );
    let second = requests(&mooncake).list[1];
    assert_eq!(requests(&mooncake).blocks(&second), [0, 2, 3]);
    assert_eq!(mooncake.left_out.values().sum::<u64>(), 1);
    let bailian = read_text(TraceKind::Bailian, BAILIAN).expect("it is good");
    assert_eq!(
        short(&bailian),
        [(0.0, 30, 9, 7, 0), (8.75, 60, 4, 7, 1), (28.5, 70, 4, 7, 2)]
    );
    for (text, second_s) in [(AZURE, 4.314_579), (AZURE_2024, 0.508)] {
        let azure = read_text(TraceKind::Azure, text).expect("it is good");
        let found = requests(&azure).list[1].at_s;
        assert!((found - second_s).abs() < 1e-5, "{found}");
    }
    let burstgpt = read_text(TraceKind::BurstGpt, BURSTGPT).expect("it is good");
    assert_eq!(
        short(&burstgpt),
        [(0.0, 472, 18, 0, 0), (113.0, 417, 276, 1, 0)]
    );
    let with_sessions = BURSTGPT
        .replace("Timestamp,", "Timestamp,Session ID,")
        .replace("\n5,", "\n5,x,")
        .replace("\n45,", "\n45,,")
        .replace("\n118,", "\n118,y,");
    let newer = read_text(TraceKind::BurstGpt, &with_sessions).expect("it is good");
    assert_eq!(short(&newer), short(&burstgpt));
}

#[test]
fn conversations_are_read_in_both_spellings() {
    let lines = SHAREGPT
        .trim()
        .trim_matches(['[', ']'])
        .replace(",\n{\"id", "\n{\"id");
    for text in [SHAREGPT, &lines] {
        let trace = read_text(TraceKind::ShareGpt, text).expect("it is good");
        let Content::Conversations(found) = &trace.content else {
            panic!("these are conversations")
        };
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0].exchanges,
            [("你好".to_owned(), "你好呀".to_owned())]
        );
        assert_eq!(found[1].system.as_deref(), Some("简短"));
        assert_eq!(found[1].exchanges.len(), 2);
        assert_eq!(trace.left_out["an answer without a message"], 1);
    }
}

#[test]
fn packed_files_are_read_as_plain_ones_are() {
    let (folder, path) = file("plain.jsonl", MOONCAKE);
    let packed = folder.path().join("packed.jsonl.gz");
    let mut writer = flate2::write::GzEncoder::new(
        std::fs::File::create(&packed).expect("writable"),
        flate2::Compression::default(),
    );
    writer.write_all(MOONCAKE.as_bytes()).expect("writable");
    writer.finish().expect("writable");
    let plain = read(TraceKind::Mooncake, &path, None).expect("plain");
    let packed = read(TraceKind::Mooncake, &packed.display().to_string(), None).expect("packed");
    assert_eq!(short(&plain), short(&packed));
}

#[test]
fn a_window_is_a_part_with_its_own_beginning() {
    let (_folder, path) = file("trace", MOONCAKE);
    let part = |from_s, to_s| read(TraceKind::Mooncake, &path, Some(Window { from_s, to_s }));
    assert_eq!(
        short(&part(2.0, 9.5).expect("two are there")),
        [(1.0, 1500, 60, 0, 0), (7.0, 512, 7, 1, 0)]
    );
    let error = part(100.0, 200.0)
        .expect_err("nothing is there")
        .to_string();
    assert!(error.contains("no request in the window"), "{error}");
}

#[test]
fn mistakes_name_file_line_and_field() {
    let cases = [
        (
            TraceKind::Mooncake,
            MOONCAKE.replace("\"hash_ids\": [0, 2, 3]}", "\"hashes\": [0]}"),
            "line 2: field `hash_ids` is missing; a mooncake trace has `timestamp`",
        ),
        (
            TraceKind::Mooncake,
            MOONCAKE.replace("1600", "-1"),
            "line 4: field `input_length` is `-1`; accepted is a whole number from 0",
        ),
        (
            TraceKind::Mooncake,
            MOONCAKE.replace("[0, 2, 3, 4]", "[0, \"x\"]"),
            "line 4: field `hash_ids` is `[0,\"x\"]`; accepted is a list",
        ),
        (
            TraceKind::Mooncake,
            "{\"timestamp\": 0,\n".to_owned(),
            "line 1: EOF while parsing",
        ),
        (
            TraceKind::Bailian,
            BAILIAN.replace("90.0", "\"90\""),
            "line 3: field `timestamp` is `\"90\"`; accepted is a number from 0",
        ),
        (
            TraceKind::Azure,
            AZURE.replace("ContextTokens", "Tokens"),
            "line 1: field `ContextTokens` is missing; an azure trace has `TIMESTAMP`",
        ),
        (
            TraceKind::Azure,
            AZURE.replace(",396,", ",many,"),
            "line 3: field `ContextTokens` is `many`; accepted is a whole number",
        ),
        (
            TraceKind::Azure,
            AZURE.replace("2023-11-16 18:15:50", "yesterday"),
            "line 3: field `TIMESTAMP` is `yesterday",
        ),
        (
            TraceKind::Azure,
            AZURE.replace(",44", ",44,9"),
            "line 2: CSV error",
        ),
        (
            TraceKind::BurstGpt,
            BURSTGPT.replace("\n45", "\n-45"),
            "line 3: field `Timestamp` is `-45`; accepted is a number of seconds",
        ),
        (
            TraceKind::ShareGpt,
            SHAREGPT.replace("\"value\":\"你好呀\"", "\"words\":\"你好呀\""),
            "line 2: missing field `value`",
        ),
        (
            TraceKind::Azure,
            "TIMESTAMP,ContextTokens,GeneratedTokens\n".to_owned(),
            "no request",
        ),
    ];
    for (kind, text, expected) in cases {
        let error = read_text(kind, &text).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}\nlacks: {expected}");
    }
    let error = read(TraceKind::Azure, "no/such.csv", None)
        .expect_err("no file")
        .to_string();
    assert!(error.contains("no/such.csv"), "{error}");
}

#[test]
fn coarse_instants_are_noticed() {
    let line = |t: u32| {
        format!("{{\"timestamp\":{t},\"input_length\":9,\"output_length\":1,\"hash_ids\":[]}}\n")
    };
    let text: String = (0..40).map(|index| line(index / 10 * 3000)).collect();
    let trace = read_text(TraceKind::Mooncake, &text).expect("it is good");
    assert_eq!(requests(&trace).step_s, Some(3.0));
    assert_eq!(
        requests(&read_text(TraceKind::Azure, AZURE).expect("good")).step_s,
        None
    );
}

/// Real traces, where the data folder is at hand.
#[test]
fn published_traces_have_what_is_known_of_them() {
    let data = std::env::var_os("WEIGHBRIDGE_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
        PathBuf::from,
    );
    if !data.join("traces").exists() {
        println!("skipped: {} is not there", data.join("traces").display());
        return;
    }
    let open = |kind, name: &str| {
        let path = data.join("traces").join(name);
        read(kind, &path.display().to_string(), None).expect(name)
    };
    let azure = open(
        TraceKind::Azure,
        "azure2023/AzureLLMInferenceTrace_conv.csv",
    );
    let found = requests(&azure);
    assert_eq!(found.list.len(), 19_366);
    assert!(
        (found.mean_rate() - 5.53).abs() < 0.01,
        "{}",
        found.mean_rate()
    );
    let mooncake = open(
        TraceKind::Mooncake,
        "mooncake/conversation_trace.first11707.jsonl",
    );
    let found = requests(&mooncake);
    let step_s = found.step_s.expect("they share their instants");
    assert!((step_s - 3.0).abs() < 0.01, "{step_s}");
    assert_eq!(
        found.list.len() as u64 + mooncake.left_out.values().sum::<u64>(),
        11_707
    );
    let with_first_block = found
        .list
        .iter()
        .filter(|r| found.blocks(r).first() == Some(&0));
    assert_eq!(with_first_block.count(), found.list.len());
}
