from pilothouse.kit.caches import keep


def test_a_full_cache_lets_go_of_its_oldest():
    cache: dict[int, str] = {}
    for number in range(5):
        assert keep(cache, number, str(number), most=3) == str(number)
    assert cache == {2: "2", 3: "3", 4: "4"}
