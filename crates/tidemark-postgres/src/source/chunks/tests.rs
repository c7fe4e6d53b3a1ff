use proptest::prelude::*;

use super::*;

fn point(value: i64, below: f64, at: f64) -> Point {
    Point {
        value: value.to_string(),
        below,
        at,
    }
}

/// Cuts that are numbers, as [`Chunk`]s tell them.
fn holds(chunk: &Chunk, value: i64) -> bool {
    let Chunk::Keys { from, to, .. } = chunk else {
        panic!("{chunk:?}")
    };
    let number = |text: &String| text.parse::<i64>().unwrap();
    from.as_ref().is_none_or(|from| value >= number(from))
        && to.as_ref().is_none_or(|to| value < number(to))
}

#[test]
fn even_statistics_give_even_chunks() {
    let points: Vec<Point> = (0..=100)
        .map(|i| point(i * 10, if i == 0 { 0.0 } else { 0.01 }, 0.0))
        .collect();
    let cuts = choose(&points, 4, |_| true);
    assert_eq!(cuts, ["250", "500", "750", "1000"]);
}

#[test]
fn few_points_are_refined_without_overflow() {
    let points = vec![point(i64::MIN, 0.0, 0.0), point(i64::MAX, 1.0, 0.0)];
    let cuts = choose(&finer(&points, 4), 4, |_| true);
    assert_eq!(cuts.len(), 4, "{cuts:?}");
    assert_eq!(cuts[1], "-1");
    assert_eq!(finer(&[point(5, 0.0, 0.0), point(5, 1.0, 0.0)], 8).len(), 2);
}

#[test]
fn a_frequent_value_is_cut_off_from_its_neighbours() {
    let points = vec![
        point(1, 0.0, 0.1),
        point(7, 0.0, 0.6),
        point(9, 0.0, 0.1),
        point(20, 0.2, 0.0),
    ];
    assert_eq!(choose(&points, 10, |_| true), ["7", "9", "20"]);
}

#[test]
fn odd_moments_are_never_a_cut() {
    for (value, expected) in [
        ("2024-01-01", true),
        ("infinity", false),
        ("-infinity", false),
        ("0044-03-15 BC", false),
    ] {
        assert_eq!(is_ordinary(ValueClass::Date, value), expected, "{value}");
    }
}

proptest! {
    #[test]
    fn every_number_is_in_exactly_one_key_range(
        mut values in proptest::collection::btree_map(any::<i64>(), (0.0..1.0_f64, 0.0..0.5_f64), 0..60),
        count in 1..100_u64,
        probes in proptest::collection::vec(any::<i64>(), 20),
    ) {
        let total: f64 = values.values().map(|(below, at)| below + at).sum::<f64>().max(0.001);
        let points: Vec<Point> = values
            .iter_mut()
            .map(|(value, (below, at))| point(*value, *below / total, *at / total))
            .collect();
        let points = if points.len() > 1 { finer(&points, count) } else { points };
        let chunks = key_ranges("id", &choose(&points, count, |_| true));
        prop_assert!(chunks.len() as u64 <= count + 2, "{} of {}", chunks.len(), count);
        for probe in probes.into_iter().chain(values.into_keys()).chain([i64::MIN, i64::MAX]) {
            let found = chunks.iter().filter(|chunk| holds(chunk, probe)).count();
            prop_assert_eq!(found, 1, "{} in {:?}", probe, chunks);
        }
    }

    #[test]
    fn every_block_is_in_exactly_one_range(blocks in 0..100_000_u32, count in 1..2000_u64) {
        let chunks = block_ranges(None, blocks, count);
        let mut next = 0;
        for (index, chunk) in chunks.iter().enumerate() {
            let Chunk::Blocks { from, to, .. } = chunk else { panic!("{chunk:?}") };
            prop_assert_eq!(*from, next);
            prop_assert_eq!(to.is_none(), index + 1 == chunks.len());
            prop_assert!(to.is_none_or(|to| to > *from));
            next = to.unwrap_or(next);
        }
        prop_assert!(chunks.len() as u64 <= count);
    }
}
