"""Abbreviations of Complete Journey's tills, in words that a text encoder knows."""

from typing import Final

_TABLE: Final = """
&=and accsry=accessory additi=additives bev=beverages beverag=beverages bg=bag bkd=baked bn=bean
brd=bread brkfst=breakfast btl=bottle btr=butter chick=chicken chix=chicken chococlate=chocolate
chp=chops ckys=cookies cleang=cleaning cnd=canned cndy=candy cntrl=central coff=coffee
conc=concentrated crkr=crackers crystl=crystal dl=deli dnr=dinner dnrs=dinners dps=dips drnk=drink
drnkng=drinking drnks=drinks drsng=dressing dsh=dish elect=electrical ex=except fd=food fds=foods
fem=feminine flav=flavored flvr=flavor flvrd=flavored frd=fried fre=fresh frz=frozen frzn=frozen
gds=goods gm=general_merchandise grnd=ground hbc=health_and_beauty hh=household hygn=hygiene
indr=indoor iqf=individually_frozen jce=juice jui=juice juic=juice lbs=pounds liq=liquid lss=less
ltr=lighter marin=marinade memorablilia=memorabilia merch=merchandise misc=miscellaneous
mnrl=mineral mw=microwave mx=mix mxs=mixes otc=over_the_counter pckgd=packaged pickld=pickled
pk=pack pkg=package pkgd=packaged pkld=pickled plantr=planter plstc=plastic pnt=peanut ppk=prepack
prem=premium prep=prepared prod=produce prpck=prepack pwdr=powder pwdrs=powders
refrgratd=refrigerated refrig=refrigerated rtd=ready_to_drink rx=prescription sal=salad sald=salad
sandwic=sandwich saus=sausage sft=soft sherbts=sherbets shldr=shoulder shlfsh=shellfish
shred=shredded slc=sliced sndwch=sandwich sngl=single snks=snacks spec=specialties sply=supply
sprd=spread srv=serving
ss=single_serving stk=steak strp=strip sup=super supp=supplements suppplies=supplies sv=service
sw=sweet swt=sweet syrp=syrup thn=than trsh=trash veg=vegetable whl=whole whlsm=wholesome
whs=warehouse wtr=water
"""

ABBREVIATIONS: Final[dict[str, str]] = {
    short: long.replace("_", " ") for short, long in (pair.split("=") for pair in _TABLE.split())
}
"""Lower-case word -> words."""
