"""KLARF files by hand, as tools write them, and what survives a round trip."""

import pytest

from semiscope.errors import DataError
from semiscope.io.klarf import KlarfImage, parse_klarf, read_klarf, write_klarf

FLAT = """FileVersion 1 2;
FileTimestamp 01-02-2024 22:22:22;
InspectionStationID "maker" "tool" "7";
SampleSize 1 300;
DiePitch 2.5000000000e+003 2.5000000000e+003;
WaferID "W 01";
VendorSecret 4 "what; no one { knows" N;
ClassLookup 2
  0 "Unclassified"
  3 "bridge";
SampleTestPlan 2
  -2 -1
  0 0 ;
DefectRecordSpec 7 DEFECTID XREL YREL CLASSNUMBER VENDOR IMAGECOUNT IMAGELIST ;
DefectList;
TiffFileName shot one.jpg;
DefectList
 1 4958.616 1483.252 0 x1 1 1 1 0
 2 NA 12 3 x2 0 0;
TiffFileName "stack.tif";
DefectList
 7 759.606 4444.340 3 x3 2 2 1 0
   2 5;
SummarySpec 2 TESTNO NDEFECT ;
SummaryList
  5 3 ;
EndOfFile;
"""

NESTED = """Record FileRecord  "1.8"
{
   Record LotRecord "aLot"
   {
      Field DiePitch 2 {7270960, 6559460}
      Field VendorSecret 2 {"a { b; c", N}
      Record WaferRecord "W1"
      {
         Field SlotNumber 1 {3}
         List DefectList
         {
            Columns 6 { int32 DEFECTID, int32 XREL, int32 YREL, int32 CLASSNUMBER, float VENDOR, ImageList IMAGEINFO }
            Data 2
            {
               2 7243340 1952050 401 1.5 Images 2 { "a/one.jpg" "JPG" 1 "High", "a/two.tif" "TIF" 4 "Low" };
               5 7238010 801050 0
                 NA N;
            }
         }
         List VendorList
         {
            Columns 2 { string NAME, string VALUE }
            Data 1
            {
               "OPERATORID" "UNKNOWN";
            }
         }
      }
      Record WaferRecord "W2"
      {
         List DefectList
         {
            Columns 3 { int32 DEFECTID, int32 XREL, int32 YREL }
            Data 1 { 9 1000 2000; }
         }
      }
      Record SummaryRecord
      {
      }
      List ClassLookupList
      {
         Columns 3 { int32 CLASSNUMBER, string CLASSNAME, string CLASSCODE }
         Data 2
         {
            0 "Not Classified" "";
            401 "bridge" "B";
         }
      }
   }
   Field FileTimestamp 2 {"2021-01-01", "01:00:00"}
}
EndOfFile;
"""  # noqa: E501


def parsed(text, tmp_path):
    return parse_klarf(text, tmp_path / "list.klarf")


def test_1_2_tells_its_defects(tmp_path):
    found = parsed(FLAT, tmp_path)
    assert found.version == "1.2" and found.classes == {0: "Unclassified", 3: "bridge"}
    assert found.header["InspectionStationID"] == ("maker", "tool", "7")
    assert found.header["VendorSecret"] == ("4", "what; no one { knows", "N")
    first, second, third = found.defects
    assert first.wafer == "W 01" and first.name == "1" and first.class_number == 0
    assert first.xy_um == (4958.616, 1483.252) and second.xy_um is None
    assert first.images == (KlarfImage("shot one.jpg", 1, "0"),) and second.images == ()
    assert third.images == (KlarfImage("stack.tif", 1, "0"), KlarfImage("stack.tif", 2, "5"))
    assert third.values == {
        "DEFECTID": "7", "XREL": "759.606", "YREL": "4444.340", "CLASSNUMBER": "3",
        "VENDOR": "x3", "IMAGECOUNT": "2",
    }  # fmt: skip


def test_1_8_tells_its_defects(tmp_path):
    found = parsed(NESTED, tmp_path)
    assert found.version == "1.8" and found.classes == {0: "Not Classified", 401: "bridge"}
    assert found.header["DiePitch"] == ("7270960", "6559460")
    assert found.header["LotRecord"] == ("aLot",)
    assert found.header["VendorSecret"] == ("a { b; c", "N")
    first, second, third = found.defects
    assert first.xy_um == (7243.34, 1952.05) and first.class_number == 401
    assert first.images == (
        KlarfImage("a/one.jpg", 1, "High"),
        KlarfImage("a/two.tif", 4, "Low"),
    )
    assert second.images == () and second.values["VENDOR"] == "NA"
    assert (second.wafer, third.wafer, third.name) == ("W1", "W2", "9")
    assert third.class_number is None and third.xy_um == (1.0, 2.0)


@pytest.mark.parametrize("words", ['"x.jpg","JPG",1,"High","y.jpg","JPG",2,"Low"',
                                   '{"x.jpg","JPG",1,"High"},{"y.jpg","JPG",2,"Low"}'])  # fmt: skip
def test_1_8_with_commas_within_an_image(tmp_path, words):
    start = NESTED.index('"a/one.jpg"')
    text = NESTED[:start] + words + NESTED[NESTED.index(" };", start) :]
    images = parsed(text, tmp_path).defects[0].images
    assert images == (KlarfImage("x.jpg", 1, "High"), KlarfImage("y.jpg", 2, "Low"))


@pytest.mark.parametrize("text", [FLAT, NESTED])
def test_a_round_trip_changes_no_byte(tmp_path, text):
    source, target = tmp_path / "a.001", tmp_path / "b.001"
    data = text.replace("\n", "\r\n").encode() + b"\x80 no utf-8 ;\r\n"
    source.write_bytes(data)
    write_klarf(read_klarf(source), target)
    assert target.read_bytes() == data


@pytest.mark.parametrize("text", [FLAT, NESTED])
def test_classes_change_in_place_and_nothing_else_does(tmp_path, text):
    before = parsed(text, tmp_path)
    after = before.classified({0: 12, 1: 12}, {12: 'say "open"', 99: "unused"})
    assert [d.class_number for d in after.defects[:2]] == [12, 12]
    assert after.classes == {**before.classes, 12: "say 'open'"}
    assert after.defects[2] == before.defects[2] and after.header.keys() == before.header.keys()
    old, new = text.splitlines(), after.text.splitlines()
    added = [line for line in new if "say" in line]
    assert len(added) == 1 and len(new) == len(old) + 1
    new.remove(added[0])
    changed = [(a, b) for a, b in zip(old, new, strict=True) if a.rstrip(";") != b.rstrip(";")]
    assert len(changed) == 3  # two defects and the number of classes
    assert after.classified({}, {}).text == after.text


def test_a_class_needs_a_name_and_a_column(tmp_path):
    with pytest.raises(DataError, match="a name for class 5"):
        parsed(FLAT, tmp_path).classified({0: 5}, {})
    with pytest.raises(DataError, match="column CLASSNUMBER, found none for defect 9"):
        parsed(NESTED, tmp_path).classified({2: 0}, {})
    bare = FLAT.replace(FLAT[FLAT.index("ClassLookup") : FLAT.index("SampleTestPlan")], "")
    with pytest.raises(DataError, match="list of classes"):
        parsed(bare, tmp_path).classified({0: 5}, {5: "five"})


@pytest.mark.parametrize(
    "wrong, message",
    [
        (FLAT.replace("1 2;", "2 0;", 1), "found a file that begins with 'FileVersion 2 0'"),
        ("", "begins with ''"),
        (FLAT.replace("DefectRecordSpec 7", "DefectRecordSpec 8"), "line 14: expected 7 columns"),
        (FLAT.replace("x1 1 1 1 0", "x1 1 one 1 0"), "line 18: expected the number of images"),
        (FLAT.replace("   2 5;", "   2;"), "line 23: expected a value for IMAGELIST, found ';'"),
        (FLAT[: FLAT.index("SummarySpec") + 5], "expected ; after Summa, found the end"),
        (FLAT.replace("DefectRecordSpec", "Other"), "DefectRecordSpec before the defects"),
        (NESTED.replace("2000; }", "2000 7; }"), "expected 3 values in a row of DefectList"),
        (NESTED.replace("2000; }", "2000 }"), "expected ; after a row, found '2000'"),
        (NESTED[: NESTED.rindex("}")], "expected } for every {"),
        (NESTED.replace("Field SlotNumber 1", "Field SlotNumber x"), "expected a count"),
        (
            NESTED.replace('            401 "', '            x "'),
            "line 46: expected a class number",
        ),
    ],
)
def test_what_breaks_the_rules_is_told_with_its_line(tmp_path, wrong, message):
    with pytest.raises(DataError) as caught:
        parsed(wrong, tmp_path)
    assert message in str(caught.value) and "list.klarf" in str(caught.value)


def test_deep_nesting_is_no_trap(tmp_path):
    deep = 'Record FileRecord "1.8" {' + "Record A {" * 50_000 + "}" * 50_001
    assert parsed(deep, tmp_path).defects == ()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_klarf(tmp_path / "none.001")
