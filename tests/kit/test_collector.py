import gc

from pilothouse.kit.collector import calm_collector


def test_what_is_loaded_is_spared_until_the_end_and_new_garbage_is_not():
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with calm_collector():
        assert gc.get_freeze_count() > frozen
        assert gc.get_threshold()[0] > before[0]
        loop: list[object] = []
        loop.append(loop)
        del loop
        assert gc.collect() >= 1
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
