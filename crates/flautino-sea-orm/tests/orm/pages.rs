//! Pages by number, and by cursor.

use futures_util::TryStreamExt;
use sea_orm::{EntityTrait, PaginatorTrait, QueryOrder};

use crate::common::{bake, cake, from_replica, with_replica};

fn ids(cakes: &[cake::Model]) -> Vec<i32> {
    cakes.iter().map(|cake| cake.id).collect()
}

#[tokio::test]
async fn pages_come_by_their_number_and_one_after_the_other() {
    let lab = with_replica("pages").start().await;
    bake(&lab, &["a", "b", "c", "d", "e", "f", "g"]).await;
    let (size, second, all) = from_replica(&lab, async |db| {
        let pages = cake::Entity::find().order_by_asc(cake::Column::Id).paginate(db, 3);
        let size = pages.num_items_and_pages().await.unwrap();
        let second = pages.fetch_page(1).await.unwrap();
        let all: Vec<_> = pages.into_stream().try_collect().await.unwrap();
        (size, second, all)
    })
    .await;
    assert_eq!((size.number_of_items, size.number_of_pages), (7, 3));
    assert_eq!(ids(&second), [4, 5, 6]);
    assert_eq!(
        all.iter().map(|page| ids(page)).collect::<Vec<_>>(),
        [vec![1, 2, 3], vec![4, 5, 6], vec![7]]
    );
    lab.engine.close().await;
}

#[tokio::test]
async fn a_cursor_goes_on_after_a_value() {
    let lab = with_replica("cursor").start().await;
    bake(&lab, &["a", "b", "c", "d", "e"]).await;
    let (first, next, last) = from_replica(&lab, async |db| {
        let mut cursor = cake::Entity::find().cursor_by(cake::Column::Id);
        let first = cursor.first(2).all(db).await.unwrap();
        let next = cursor.after(2).first(2).all(db).await.unwrap();
        let mut cursor = cake::Entity::find().cursor_by(cake::Column::Name);
        (first, next, cursor.before("e").last(1).all(db).await.unwrap())
    })
    .await;
    assert_eq!((ids(&first), ids(&next), ids(&last)), (vec![1, 2], vec![3, 4], vec![4]));
    lab.engine.close().await;
}
