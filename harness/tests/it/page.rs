//! The report page in a real browser: its script runs on every plot and answers to a reader.

use std::process::Command;

use crate::command::Sandbox;

/// Put before the page's own script: notes whatever goes wrong.
const WATCH: &str = "<script>addEventListener('error', (event) => {
  document.documentElement.dataset.fault = event.message;
});</script>";

/// Put after it: does what a reader does, and notes what came of it.
const READER: &str = "<script>
const root = document.documentElement;
document.getElementById('theme').click();
const plots = [...document.querySelectorAll('figure[data-plot]')];
for (const plot of plots) {
  plot.querySelector('[data-toggle]').click();
  plot.querySelector('[data-toggle]').click();
  const key = (name) => new KeyboardEvent('keydown', { key: name, bubbles: true });
  plot.querySelector('svg').dispatchEvent(key('ArrowRight'));
}
const spoken = plots.filter((plot) => plot.querySelector('output').textContent.trim());
root.dataset.plots = plots.length;
root.dataset.spoken = spoken.length;
root.dataset.wide = root.scrollWidth > innerWidth;
const term = document.querySelector('a.term');
term.click();
const card = document.getElementById('definition');
root.dataset.defined = card.matches(':popover-open') && card.textContent.length > 40;
const first = plots[0].querySelector('svg');
const area = first.getBoundingClientRect();
const at = (type, share) => first.dispatchEvent(new PointerEvent(type, {
  clientX: area.left + share * area.width, clientY: area.top + 20, button: 0,
  pointerType: 'mouse', pointerId: 1, bubbles: true,
}));
first.setPointerCapture = () => {};
at('pointerdown', 0.4); at('pointermove', 0.6); at('pointerup', 0.6);
const reset = plots[0].querySelector('.reset');
root.dataset.zoomed = !reset.hidden;
reset.click();
root.dataset.unzoomed = reset.hidden;
</script></body>";

fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
}

#[test]
fn the_page_works_in_a_browser() {
    let Some(browser) = browser() else {
        println!("skipped: no chromium on this machine");
        return;
    };
    let sandbox = Sandbox::new();
    let sim = [
        "run", "--target", "sim:h20", "--model", "ref-tiny", "--rate", "20",
    ];
    sandbox
        .run(&[&sim[..], &["--out", "out"]].concat())
        .ends_with(0);
    let page = std::fs::read_to_string(sandbox.path("out/report.html")).expect("written");
    let page = page.replacen("<head>", &format!("<head>{WATCH}"), 1);
    let page = sandbox.write("page.html", page.replacen("</body>", READER, 1));
    let profile = format!("--user-data-dir={}", sandbox.path("profile").display());
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args([&profile, "--window-size=600,1200", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser runs");
    let dom = String::from_utf8_lossy(&output.stdout);
    let said = |name: &str| {
        let rest = dom.split(&format!("data-{name}=\"")).nth(1)?;
        rest.split('"').next().map(ToOwned::to_owned)
    };
    assert_eq!(said("fault"), None);
    let plots: u32 = said("plots")
        .and_then(|n| n.parse().ok())
        .expect("the script ran to its end");
    assert!(plots >= 8, "{plots} plots");
    assert_eq!(
        said("spoken"),
        Some(plots.to_string()),
        "each plot reads its values out"
    );
    assert_eq!(
        said("wide").as_deref(),
        Some("false"),
        "the page scrolls sideways"
    );
    assert!(said("theme").is_some(), "the theme can be switched");
    for what in ["defined", "zoomed", "unzoomed"] {
        assert_eq!(said(what).as_deref(), Some("true"), "{what}");
    }
}
