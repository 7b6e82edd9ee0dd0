"""Research data sets as their repositories have them, and what is said of a bad one."""

import pytest

from hanse_simulations.datasets.sequences import read_sequences
from kits.errors import raises

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def lists(read):
    return [read.sequences.of_customer(i).tolist() for i in range(len(read.sequences))]


def written(tmp_path, text, name="data.txt"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_line_a_customer_and_a_line_a_pair_read_alike(tmp_path):
    lines = read_sequences(written(tmp_path, "7 3 1 10\n9 1 3 2 3\n"))
    pairs = read_sequences(written(tmp_path, "7 3\n9 1\n7 1\n9 3\n7 10\n9 2\n9 3\n\n", "pairs.txt"))
    assert lists(lines) == lists(pairs) == [[2, 0, 3], [0, 2, 1, 2]]
    assert lines.sequences.items == pairs.sequences.items == 4
    assert lines.duplicates == pairs.duplicates == 1
    assert lines.interactions == 7
    assert lines.note == "2 customers, 4 items, 7 interactions, 1 duplicates"


def test_atomic_files_are_put_in_order_of_time_and_what_was_noticed_is_counted(tmp_path):
    rows = "u\tb\t3\t20\nu\ta\t5\t10\nu\tc\t1\t30.5\nu\tc\t1\t30.5\nu\tc\t1\t31\nv\ta\t2\t1\n"
    read = read_sequences(written(tmp_path, HEADER + rows, "x.inter"))
    assert lists(read) == [[0, 1, 2, 2]]
    assert (read.duplicates, read.out_of_order, read.too_short) == (1, 1, 1)
    assert read.filtered == 0


def test_the_core_is_dropped_to_until_nobody_is_rare(tmp_path):
    """The item that only the rare customer shares becomes rare once that one is gone."""
    text = "1 1 2 3\n2 1 2 3\n3 1 2 3 4\n4 4\n"
    read = read_sequences(written(tmp_path, text), min_count=2)
    assert lists(read) == [[0, 1, 2]] * 3
    assert read.sequences.items == 3
    assert read.filtered == 2


def test_items_of_a_list_beside_the_file_are_there_whether_taken_or_not(tmp_path):
    path = written(tmp_path, "7 3 1 10\n9 1 3 2 3 99\n")
    assert not read_sequences(path).listed
    written(tmp_path, "10\n3\n2\n1\n4\n", "data.items")
    read = read_sequences(path)
    assert (read.listed, read.sequences.items, read.unlisted) == (True, 5, 1)
    assert lists(read) == [[1, 3, 0], [3, 1, 2, 1]]
    assert read.note.endswith("1 interactions with items that the list has not left out")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "1 2 3\n2\n", "line 2: no item after user '2'"),
        ("a.txt", "1 2 3\n2 3 4\n1 5 6\n", "line 3: user '1' has a line already"),
        ("a.txt", "", "empty or not a file"),
        ("a.txt", "1 2 3\n", "no customer with 3 items"),
        ("a.inter", "user_id:token\ttimestamp:float\n1\t2\n", "no column 'item_id:token'"),
        ("a.inter", "user_id,item_id,timestamp\n1,2,3\n", "no column 'user_id:token'"),
        ("a.inter", HEADER + "1\t2\t3\t4\n1\t3\t4\tnoon\n", "line 3: no user"),
        ("a.inter", HEADER + "1\t2\t3\t4\n1\t3\t4\n", "line 3: no user"),
        ("a.inter", HEADER + "1\t2\t3\tinf\n", "line 2: no user"),
        ("a.inter", HEADER + "1\t2\t3\t4\t5\n", "is no atomic file"),
    ],
)
def test_what_cannot_be_read_is_refused_by_line_and_reason(tmp_path, name, text, said):
    with raises("data", match=said):
        read_sequences(written(tmp_path, text, name))


def test_no_such_file_and_no_text_are_refused(tmp_path):
    with raises("data"):
        read_sequences(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00 1\n")
    with raises("data"):
        read_sequences(tmp_path / "b.txt")
    with raises("data"):
        read_sequences(tmp_path)


def test_items_with_commas_between_them_are_several(tmp_path):
    plain = read_sequences(written(tmp_path, "u1 1 2 3\nu2 2 3 1\n"))
    for text in ("u1\t1,2,3\nu2\t2,3,1\n", "u1\t1, 2, 3\nu2\t2, 3, 1\n"):
        assert read_sequences(written(tmp_path, text)).names == plain.names
        assert read_sequences(written(tmp_path, text)).interactions == 6
    with raises("data", match="line 2: commas"):
        read_sequences(written(tmp_path, "u1\t1,2,3\nu2 2 3 1\n"))
    with raises("data", match="line 1: commas"):
        read_sequences(written(tmp_path, "u1,1,2017-01-01\nu1,2,2017-01-02\n"))


def test_a_table_is_refused_with_the_way_to_name_its_columns(tmp_path):
    with raises("data", match=r"store\.toml"):
        read_sequences(written(tmp_path, "user,item,time\nu,1,2\n", "sales.csv"))


def test_a_store_is_read_through_its_mapping(tmp_path):
    written(tmp_path, "card,sku,sold\nu,b,2017-02-02\nu,a,2017-01-02\nu,c,2017-03-02\nv,a,x\n"
            + "".join(f"w,{item},2017-01-0{day}\n" for day, item in enumerate("cba", start=1)),
            "sales.csv")  # fmt: skip
    written(tmp_path, "item_id,text,category\na,A,X\nb,B,X\nc,C,X\nd,D,X\n", "items.csv")
    store = written(
        tmp_path,
        'name = "s"\nmax_reject_share = 0.5\n[events]\npath = "sales.csv"\n[catalogue]\n'
        'path = "items.csv"\n[events.columns]\nuser_id = "card"\nitem_id = "sku"\n'
        'timestamp = "sold"\n',
        "store.toml",
    )
    read = read_sequences(store)
    assert read.listed and read.names == ["a", "b", "c", "d"] and read.rejected == 1
    taken = sorted(read.sequences.of_customer(i).tolist() for i in range(2))
    assert taken == [[0, 1, 2], [2, 1, 0]]
    assert "1 rows rejected" in read.note
    assert not (tmp_path / "customer.key").exists()
