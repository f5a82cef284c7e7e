//! Fixed work for `scripts/gate-trials`: `busy STEPS`, some nanoseconds each.

fn main() {
    let steps = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000_u64);
    let mut value = 0x9e37_79b9_7f4a_7c15_u64;
    for step in 0..steps {
        value = std::hint::black_box(value.rotate_left(7).wrapping_mul(step | 1));
    }
    std::hint::black_box(value);
}
