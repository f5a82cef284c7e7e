//! The committed corpus: every slot has a list, lines are Chinese, sessions differ.

use std::collections::BTreeSet;

use rand::SeedableRng;

use super::*;

const PARTS: [Part; 4] = [Part::First, Part::Next, Part::Body, Part::Reply];

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{9fff}')
}

/// Han characters and Chinese punctuation.
fn is_chinese(c: char) -> bool {
    is_han(c)
        || matches!(c, '\u{3000}'..='\u{303f}' | '\u{ff00}'..='\u{ffef}')
        || "…—‘’“”".contains(c)
}

/// All templates with the file and section they stand in.
fn lines() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    CLASS_FILES
        .into_iter()
        .chain([("shared", SHARED_FILE)])
        .flat_map(|(file, source)| {
            let sections = Sections::parse(file, source).unwrap();
            sections
                .lines
                .into_iter()
                .map(move |(name, lines)| (file, name, lines))
        })
        .collect()
}

fn collect_slots(template: &Template, used: &mut BTreeSet<usize>) {
    for piece in &template.0 {
        match piece {
            Piece::Draw(list) | Piece::Recall(list) => {
                used.insert(*list);
            }
            Piece::Choice(alternatives) => {
                for inner in alternatives {
                    collect_slots(inner, used);
                }
            }
            Piece::Text(_) | Piece::Number(_) => {}
        }
    }
}

#[test]
fn sections_are_large_enough() {
    for (file, name, lines) in lines() {
        let least = match (file, name) {
            (_, "lead" | "tail") => 10,
            ("shared", "system" | "persona") | (_, "first" | "reply") => 60,
            ("shared", "snippet") | (_, "body") => 80,
            (_, "next") => 40,
            _ => 1,
        };
        assert!(
            lines.len() >= least,
            "{file} [{name}] has {} lines",
            lines.len()
        );
    }
}

#[test]
fn slot_lists_are_used_and_of_good_size() {
    let corpus = Corpus::builtin();
    let mut used = BTreeSet::new();
    let classes = corpus.classes.values().flat_map(|class| {
        [
            &class.lead,
            &class.tail,
            &class.first,
            &class.next,
            &class.body,
            &class.reply,
        ]
    });
    for template in classes.chain([&corpus.persona, &corpus.snippet]).flatten() {
        collect_slots(template, &mut used);
    }
    assert!(corpus.lists.len() >= 25);
    for (index, list) in corpus.lists.iter().enumerate() {
        assert!(
            used.contains(&index),
            "the list of {} is never drawn",
            list[0]
        );
        assert!(
            (15..=65).contains(&list.len()),
            "{} has {} entries",
            list[0],
            list.len()
        );
        assert!(
            list.iter()
                .all(|entry| !entry.is_empty() && !entry.contains('{'))
        );
        assert_eq!(
            list.iter().collect::<BTreeSet<_>>().len(),
            list.len(),
            "{}",
            list[0]
        );
    }
}

#[test]
fn lines_are_distinct_and_chinese() {
    for (file, name, lines) in lines() {
        if name.starts_with("slots:") {
            continue;
        }
        let mut seen = BTreeSet::new();
        for line in lines {
            assert!(seen.insert(line), "{file} [{name}] repeats {line}");
            assert_eq!(line.trim_end(), line, "trailing blank");
            let literal = without_slots(line);
            assert!(
                literal.chars().any(is_han),
                "{file} [{name}] has no Chinese: {line}"
            );
            let letters = literal.chars().filter(char::is_ascii_alphabetic).count();
            let foreign = matches!(file, "coding" | "translation");
            let few = letters * 5 <= literal.chars().count();
            assert!(foreign || few, "{file} [{name}] is not Chinese: {line}");
        }
    }
}

fn without_slots(line: &str) -> String {
    let mut text = String::new();
    let mut in_name = false;
    for c in line.chars() {
        in_name = c == '{' || (in_name && (c.is_ascii_alphanumeric() || "_=".contains(c)));
        if !in_name && !"{|}".contains(c) {
            text.push(c);
        }
    }
    text
}

#[test]
fn every_text_is_filled_and_closed() {
    let corpus = Corpus::builtin();
    let mut rng = rng(1);
    let slots = lines()
        .into_iter()
        .filter_map(|(_, name, _)| name.strip_prefix("slots:"))
        .chain(["n1", "n2", "n3", "year", "price"])
        .map(|name| format!("{{{name}}}"))
        .collect::<Vec<_>>();
    let check = |text: &str| {
        assert!(text.ends_with(|last| CLOSING.contains(last)), "{text}");
        assert!(slots.iter().all(|slot| !text.contains(slot)), "{text}");
    };
    for _ in 0..500 {
        for class in corpus.classes() {
            for part in PARTS {
                check(&corpus.sentence(class, part, &mut rng));
            }
        }
        check(&corpus.persona_sentence(&mut rng));
        check(&corpus.snippet(&mut rng));
    }
}

#[test]
fn the_system_prompt_is_plain_and_long_enough() {
    let corpus = Corpus::builtin();
    let system = corpus.system_sentences();
    let length: usize = system.iter().map(|sentence| sentence.chars().count()).sum();
    // 880 reference tokens at 1.85 characters a token, the most measured, and some to spare.
    assert!(length > 1_700, "{length} characters");
    assert!(
        system
            .iter()
            .all(|sentence| sentence.ends_with('。') && !sentence.contains('{'))
    );
}

#[test]
fn one_seed_gives_one_text() {
    let corpus = Corpus::builtin();
    let draw = |seed| {
        let mut rng = rng(seed);
        let classes: Vec<_> = corpus.classes().collect();
        (0..200)
            .map(|i| corpus.sentence(classes[i % 8], PARTS[i % 4], &mut rng))
            .collect()
    };
    let (first, again, other): (Vec<_>, Vec<_>, Vec<_>) = (draw(7), draw(7), draw(8));
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[test]
fn pinned_examples() {
    let corpus = Corpus::builtin();
    let mut rng = rng(2026);
    assert_eq!(
        corpus.sentence("casual_chat", Part::First, &mut rng),
        "唉无聊，如果你是人，你最想去西安还是广州？你懂吧\n"
    );
    assert_eq!(
        corpus.sentence("homework_qa", Part::First, &mut rng),
        "把一根593厘米长的铁丝围成一个长是宽7倍的长方形，它的面积是多少？"
    );
    assert_eq!(
        corpus.snippet(&mut rng),
        "【睡前22分钟做什么】考试资讯站：放下手机、调暗灯光、喝一小杯温水，初春可以泡脚，有助于放松。"
    );
}

#[test]
fn an_unknown_class_is_casual_chat() {
    let corpus = Corpus::builtin();
    let draw = |class: &str| corpus.sentence(class, Part::First, &mut rng(3));
    assert_eq!(draw("no_such_class"), draw("casual_chat"));
}

#[test]
fn opening_messages_are_diverse() {
    let corpus = Corpus::builtin();
    for class in corpus.classes() {
        let mut rng = rng(11);
        let mut messages = BTreeSet::new();
        let mut openings = BTreeSet::new();
        for _ in 0..10_000 {
            let message = corpus.sentence(class, Part::First, &mut rng);
            let body = corpus.sentence(class, Part::Body, &mut rng);
            openings.insert(
                format!("{message}{body}")
                    .chars()
                    .take(40)
                    .collect::<String>(),
            );
            messages.insert(message);
        }
        println!(
            "{class}: {} distinct, {} openings",
            messages.len(),
            openings.len()
        );
        assert!(
            messages.len() >= 9_000,
            "{class}: {} distinct",
            messages.len()
        );
        assert!(
            openings.len() >= 9_500,
            "{class}: {} distinct openings",
            openings.len()
        );
    }
}

#[test]
fn chinese_dominates() {
    let corpus = Corpus::builtin();
    for class in corpus.classes() {
        let least = match class {
            "coding" => 0.35,
            "translation" => 0.5,
            _ => 0.7,
        };
        for part in PARTS {
            let mut rng = rng(5);
            let text: String = (0..2_000)
                .map(|_| corpus.sentence(class, part, &mut rng))
                .collect();
            let all = text.chars().filter(|c| !c.is_whitespace()).count() as f64;
            let chinese = text.chars().filter(|&c| is_chinese(c)).count() as f64 / all;
            let han = text.chars().filter(|&c| is_han(c)).count() as f64 / all;
            println!("{class} {part:?}: {chinese:.2} Chinese, {han:.2} Han");
            assert!(chinese >= least, "{class} {part:?}: {chinese:.2}");
        }
    }
}

#[test]
fn templates_read_slots_choices_and_ordinary_braces() {
    let names = BTreeMap::from([("a".to_owned(), 0)]);
    let lists = [vec!["甲".to_owned(), "乙".to_owned()]];
    let check = |line: &str, expect: &[&str]| {
        let template = Template::parse(line, &names).unwrap();
        for seed in 0..20 {
            let mut rng = rng(seed);
            let mut filling = Filling::new(&lists, &mut rng);
            filling.fill(&template);
            assert!(
                expect.contains(&filling.text.as_str()),
                "{line}: {}",
                filling.text
            );
        }
    };
    check("{a}和{a}", &["甲和乙", "乙和甲"]);
    check("{a}和{=a}", &["甲和甲", "乙和乙"]);
    check("{好|{a}}。", &["好。", "甲。", "乙。"]);
    check("{|不}去", &["去", "不去"]);
    check("if x { y{0} } {", &["if x { y{0} } {"]);
    check("一\\n二", &["一\n二"]);
    assert!(Template::parse("去{b}", &names).is_err());
}

#[test]
fn malformed_files_are_refused() {
    let check = |source: &str, expect: &str| {
        let files = [(FALLBACK, source)];
        let shared = "[system]\n好。\n[persona]\n好。\n[snippet]\n好。\n";
        let problem = Corpus::parse(&files, shared).unwrap_err().to_string();
        assert!(problem.contains(expect), "{problem}");
    };
    check("好。\n", "no section above");
    check("[first]\n好。\n[first]\n", "[first] appears twice");
    check("[lead]\n好。\n", "[tail] is missing or empty");
    check("[lead]\n去{city}。\n", "no [slots:city]");
    let full = "[lead]\n好\n[tail]\n好\n[first]\n好\n[next]\n好\n[body]\n好\n[reply]\n好\n[x]\n";
    check(full, "[x] is not a known section");
}
