//! The distance of two texts (Levenshtein, 1966).

/// The fewest characters to insert, delete or replace, to make one text of another. Takes time by the product of their
/// lengths, so texts are compared up to `most` characters, and what is longer counts as far away as it is longer.
pub(super) fn distance(a: &str, b: &str, most: usize) -> usize {
    let [a, b] = [a, b].map(|text| text.chars().collect::<Vec<char>>());
    if a.len().max(b.len()) > most {
        return a.len().abs_diff(b.len()).max(usize::from(a != b));
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn edits_are_counted_by_characters() {
        for (a, b, edits) in [("", "", 0), ("kitten", "sitting", 3), ("tür", "tur", 1), ("", "abc", 3)] {
            assert_eq!((distance(a, b, 100), distance(b, a, 100)), (edits, edits), "{a} {b}");
        }
    }
}
