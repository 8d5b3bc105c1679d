"""What preprocessing prints of its work."""

from data_preprocess import count_tables


def test_a_difference_from_the_published_counts_warns_and_no_more(capsys):
    count_tables.compare_with_published({"stays": 4000, "rows": 10, "absent": 1}, {"stays": 3999, "rows": 10})
    captured = capsys.readouterr()
    assert [line.split() for line in captured.out.splitlines() if line] == [
        ["check", "published", "observed"], ["stays", "4,000", "3,999"], ["rows", "10", "10"]]
    assert captured.err.count("warning:") == 1 and "stays: 3,999 observed, 4,000 published" in captured.err


def test_attrition_is_printed_in_aligned_columns_with_a_total(capsys):
    count_tables.print_attrition({"set-a": {"rows read": 1200, "kept": 7}, "set-b": {"rows read": 30, "kept": 30}})
    assert capsys.readouterr().out == ("cohort     set-a  set-b  total\n"
                                       "rows read  1,200     30  1,230\n"
                                       "kept           7     30     37\n\n")
