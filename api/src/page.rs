//! Lists in pages, and their cursors.

use serde::{Deserialize, Serialize};

/// A page of a list, with the cursor of the next one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// Cursor of the next page, to be given as `after`. Null on the last page.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of the next `limit` items, with the cursor of the page after it if there is more.
    pub fn of(items: impl Iterator<Item = T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let mut items: Vec<T> = items.take(limit + 1).collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(cursor);
        Self { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_where_to_go_on_only_if_there_is_more() {
        let page = |limit| Page::of(1..=3, limit, i32::to_string);
        assert_eq!((page(2).items, page(2).next), (vec![1, 2], Some("2".to_owned())));
        assert_eq!((page(3).items, page(3).next), (vec![1, 2, 3], None));
    }
}
