"""The assortment of synthetic stores: departments, categories, and three kinds of each."""

from typing import Final

_SHELVES: Final = """
dairy
  milk: whole milk, skim milk, oat drink
  yogurt: plain yogurt, fruit yogurt, drinking yogurt
  hard cheese: cheddar, gouda, parmesan
  soft cheese: cream cheese, brie, mozzarella
  butter: salted butter, unsalted butter, margarine
  eggs: free range eggs, brown eggs, egg whites
  cream: whipping cream, sour cream, coffee creamer
produce
  apples: red apples, green apples, cooking apples
  bananas: bananas, organic bananas, plantains
  citrus: oranges, lemons, grapefruit
  berries: strawberries, blueberries, raspberries
  salad: iceberg lettuce, mixed salad leaves, rocket
  tomatoes: vine tomatoes, cherry tomatoes, plum tomatoes
  roots: potatoes, carrots, beetroot
  onions: yellow onions, red onions, garlic
meat and fish
  beef: ground beef, beef steak, stewing beef
  pork: pork chops, bacon, pulled pork
  poultry: chicken breast, whole chicken, turkey slices
  sausages: bratwurst, hot dogs, chorizo
  fresh fish: salmon fillet, cod fillet, trout
  shellfish: shrimp, mussels, crab meat
  ham: cooked ham, smoked ham, prosciutto
bakery
  bread: white bread, rye bread, sourdough
  rolls: bread rolls, bagels, burger buns
  cakes: chocolate cake, cheesecake, apple pie
  pastries: croissants, doughnuts, cinnamon rolls
  tortillas: wheat tortillas, corn tortillas, pita bread
  biscuits: butter biscuits, chocolate chip cookies, crackers
pantry
  pasta: spaghetti, penne, egg noodles
  rice: long grain rice, basmati rice, risotto rice
  breakfast cereal: corn flakes, muesli, porridge oats
  canned vegetables: canned tomatoes, canned corn, chickpeas
  soup: chicken soup, tomato soup, lentil soup
  sauces: pasta sauce, ketchup, soy sauce
  oil and vinegar: olive oil, sunflower oil, wine vinegar
  baking: flour, sugar, baking powder
  spreads: strawberry jam, honey, peanut butter
  spices: black pepper, paprika, curry powder
frozen
  frozen pizza: pizza margherita, pizza salami, vegetable pizza
  frozen vegetables: frozen peas, frozen spinach, mixed frozen vegetables
  ice cream: vanilla ice cream, fruit sorbet, ice lollies
  frozen meals: frozen lasagne, frozen curry, fish fingers
  frozen potatoes: french fries, hash browns, potato wedges
drinks
  coffee: ground coffee, coffee beans, instant coffee
  tea: black tea, green tea, herbal tea
  juice: orange juice, apple juice, tomato juice
  soft drinks: cola, lemonade, energy drink
  water: still water, sparkling water, flavored water
  beer: lager, wheat beer, alcohol free beer
  wine: red wine, white wine, sparkling wine
snacks
  crisps: potato crisps, tortilla chips, popcorn
  chocolate: milk chocolate, dark chocolate, pralines
  sweets: fruit gums, liquorice, chewing gum
  nuts: peanuts, almonds, trail mix
household
  laundry: washing powder, liquid detergent, fabric softener
  cleaning: dish soap, all purpose cleaner, glass cleaner
  paper goods: toilet paper, kitchen roll, paper tissues
  pet food: dry dog food, canned cat food, bird seed
  baby care: diapers, baby food jars, baby wipes
  hair care: shampoo, conditioner, hair gel
  oral care: toothpaste, toothbrushes, mouthwash
"""


def _parse() -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    shelves: list[tuple[str, str, tuple[str, ...]]] = []
    department = ""
    for line in _SHELVES.strip().splitlines():
        if not line.startswith(" "):
            department = line
            continue
        category, kinds = line.strip().split(": ")
        shelves.append((department, category, tuple(kinds.split(", "))))
    return tuple(shelves)


SHELVES: Final = _parse()
"""`(department, category, kinds)`; categories of one department are neighbours."""
