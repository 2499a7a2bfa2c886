"""The built-in addition task: every pair once, digits in the stated order."""

from opsd_core.data import addition_example, addition_examples


def test_answer_is_the_sum_with_its_last_digit_first():
    # 12 + 34 = 046 -> "640"; 7 + 95 = 102 -> "201"; 99 + 99 = 198 -> "891"
    assert (addition_example(12, 34).question, addition_example(12, 34).answer) == ("12+34=", "640")
    assert (addition_example(7, 95).question, addition_example(7, 95).answer) == ("07+95=", "201")
    assert addition_example(99, 99).answer == "891"


def test_full_set_has_every_pair_once_and_right():
    examples = addition_examples(10_000, seed=3)
    assert len({example.id for example in examples}) == len(examples) == 10_000
    for example in examples:
        a, b = example.question.rstrip("=").split("+")
        assert int(example.answer[::-1]) == int(a) + int(b)
        assert (len(example.question), len(example.answer)) == (6, 3)


def test_seed_decides_the_order_and_a_smaller_size_is_a_subset():
    ids = [example.id for example in addition_examples(50, seed=1)]
    assert ids == [example.id for example in addition_examples(50, seed=1)]
    assert ids != [example.id for example in addition_examples(50, seed=2)]
    assert len(addition_examples(20_000)) == 10_000
