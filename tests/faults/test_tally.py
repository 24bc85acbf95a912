def test_counts_reach_the_report(tally, request):
    tally("tests that count")
    assert ("tally tests that count", 1) in request.node.user_properties
